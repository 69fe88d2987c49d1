"""Sets of documents by hand: their predicted influence, their neighbours, correlations over sets."""

import numpy as np
import pytest

from groupmates.maths import document_sets
from groupmates.maths.labels import LabelScale
from groupmates.maths.randomness import generator
from groupmates.maths.relation import NONE, Relation
from groupmates.maths.statistics import spearman
from scored import unit

# Three unit vectors with similarities 0.6 (1, 2), 0.0 (1, 3) and 0.8 (2, 3).
EMB = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], np.float32)
INDIVIDUAL = np.array([-3.0, 2.0, 5.0])
PLAIN = LabelScale(np.zeros(3), np.ones(3))


def test_three_documents_by_hand_with_the_mean_kernel():
    # -3; [2 - 2/(4*1) * 0.6] * 2 = 3.4; [2 - 2/(4*2) * (0.0 + 0.8)] * 5 = 9
    relation = Relation("mean", alpha=2.0, beta=4.0, sharpness=1.0)
    assert document_sets.set_theta(relation, INDIVIDUAL, EMB) == pytest.approx(
        [-3.0, 3.4, 9.0], abs=1e-5
    )


def test_three_documents_by_hand_with_the_nearest_kernel_and_without_relation():
    # -3; [1 - 0.6**2] * 2 = 1.28; [1 - 0.8**2] * 5 = 1.8
    relation = Relation("nearest", alpha=1.0, beta=1.0, sharpness=2.0)
    found = document_sets.group_influence(relation, INDIVIDUAL, EMB, PLAIN)
    assert found == pytest.approx([-3.0, -1.72, 0.08], abs=1e-5)
    assert document_sets.group_influence(NONE, INDIVIDUAL, EMB, PLAIN).tolist() == [-3.0, -1.0, 4.0]


def test_standardised_influences_count_by_their_position_and_beyond_the_last_as_there():
    # nats: -1 + 0.5 * -3 = -2.5; 0.1 + 0.2 * 2 = 0.5; 0.1 + 0.2 * 5 = 1.1
    scale = LabelScale(np.array([-1.0, 0.1]), np.array([0.5, 0.2]))
    found = document_sets.group_influence(NONE, INDIVIDUAL, EMB, scale)
    assert found == pytest.approx([-2.5, -2.0, -0.9])


def test_a_copy_adds_nothing_and_the_order_of_a_set_matters():
    relation = Relation("nearest", alpha=1.0, beta=1.0, sharpness=4.0)
    twice = document_sets.group_influence(relation, np.array([-2.0, -2.0]), EMB[[1, 1]], PLAIN)
    assert twice == pytest.approx([-2.0, -2.0], abs=1e-5)
    total = document_sets.group_influence(relation, INDIVIDUAL[:2], EMB[:2], PLAIN)[-1]
    backwards = document_sets.group_influence(relation, INDIVIDUAL[1::-1], EMB[1::-1], PLAIN)[-1]
    assert (total, backwards) == pytest.approx(
        (-3 + 2 * (1 - 0.6**4), 2 - 3 * (1 - 0.6**4)), abs=1e-5
    )


def test_near_sets_begin_with_a_document_and_go_on_with_the_nearest():
    emb = unit(np.random.default_rng(0).normal(size=(50, 4)))
    emb[7] = emb[3]  # a copy
    found = document_sets.near_sets(emb, 20, 5, seed=0)
    similarity = emb.astype(float) @ emb.T.astype(float)
    for first, *others in found.tolist():
        near = sorted((i for i in range(50) if i != first), key=lambda i: -similarity[first, i])
        assert others == near[:4]
    assert len(set(found[:, 0].tolist())) > 10
    of_copies = document_sets.near_sets(np.repeat(emb[:1], 6, axis=0), 9, 3, seed=1)
    assert all(s[0] not in s[1:] for s in of_copies.tolist())


def test_more_and_larger_near_sets_begin_with_the_fewer_and_smaller():
    emb = unit(np.random.default_rng(1).normal(size=(40, 4)))
    few, many = (
        document_sets.near_sets(emb, 5, 3, seed=2),
        document_sets.near_sets(emb, 9, 8, seed=2),
    )
    assert np.array_equal(many[:5, :3], few)
    assert not np.array_equal(document_sets.near_sets(emb, 5, 3, seed=3), few)


def test_random_sets_hold_distinct_documents_and_a_set_depends_on_its_number_alone():
    few, many = (
        document_sets.random_sets(30, 4, 30, seed=0),
        document_sets.random_sets(30, 6, 30, seed=0),
    )
    assert np.array_equal(many[:4], few)
    assert all(sorted(s) == list(range(30)) for s in many.tolist())
    assert len({tuple(s) for s in many.tolist()}) == 6


def test_the_nearest_document_before_is_the_mean_over_the_later_ones():
    assert document_sets.nearest_earlier(EMB) == pytest.approx((0.6 + 0.8) / 2)


def test_correlations_are_those_of_single_calls_for_the_sets_and_for_every_draw():
    rng = np.random.default_rng(0)
    truth, predicted = rng.normal(size=12), rng.normal(size=(3, 12)).round(1)  # with ties
    predicted[2] = 1.0
    found, drawn = document_sets.agreement(truth, predicted, generator(0, "test"), draws=40)
    assert found == pytest.approx([spearman(p, truth) for p in predicted])
    assert drawn.shape == (40, 3)
    rows = generator(0, "test").integers(0, 12, (40, 12))
    expected = [[spearman(p[r], truth[r]) for p in predicted] for r in rows]
    assert drawn == pytest.approx(np.array(expected))
    assert not drawn[:, 2].any()  # a prediction that tells nothing apart
