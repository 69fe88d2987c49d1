"""One document along a greedy order: the same numbers as the greedy's own."""

import numpy as np
import pytest

from groupmates.maths.greedy import greedy_order
from groupmates.maths.insertion import thetas_along
from groupmates.maths.relation import Relation
from scored import unit

NEAREST = Relation("nearest", 0.9, 1.2, 2.0)
MEAN = Relation("mean", 0.9, 1.2, 2.0)


def test_two_picks_by_hand():
    """alpha 1, beta 2, squared cosine: half of the squared resemblance is lost."""
    picked = np.array([[0.0, 1.0], [0.6, 0.8]], np.float32)
    relation = Relation("nearest", 1.0, 2.0, 2.0)
    found = thetas_along(-8.0, np.array([1.0, 0.0], np.float32), picked, relation)
    assert found == pytest.approx([-8.0, -8.0, -8.0 * (1 - 0.36 / 2)], abs=1e-5)


@pytest.mark.parametrize("relation", [NEAREST, MEAN])
@pytest.mark.parametrize("documents", [9, 400])  # more than a window of the mean kernel
def test_a_picked_document_has_at_its_step_the_theta_that_the_greedy_gave_it(relation, documents):
    rng = np.random.default_rng(3)
    influence, emb = rng.normal(size=documents), unit(rng.normal(size=(documents, 6)))
    order, theta = greedy_order(influence, emb, relation)
    for rank in range(0, documents, 7):
        document = order[rank]
        along = thetas_along(influence[document], emb[document], emb[order[:rank]], relation)
        assert along[rank] == theta[rank]
