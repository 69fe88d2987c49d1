"""What a pretraining gained, and the sentence that may be said of it: numbers and words by hand."""

from __future__ import annotations

import numpy as np
import pytest

from groupmates.maths.statistics import smallest_difference
from groupmates.report.data.pretrained import Cost, Trained
from groupmates.report.gain_words import sentence
from groupmates.report.gains import Estimate, gain

POINTS = np.array([0, 4000, 8000])
HALF = 12.706205  # Student's t of 1 degree of freedom at 97.5 %


def trained(name: str, losses: list[list[float]], selection: float = 0.0) -> Trained:
    """Trainings with these losses at POINTS, of a core-hour per thousand tokens."""
    curves = {seed: (POINTS, np.array(nats)) for seed, nats in enumerate(losses)}
    sums_E = np.full(4, np.mean([nats[-1] for nats in losses]))
    token, chosen = Cost(core_hours=0.001), [Cost(core_hours=selection)]
    return Trained(name, curves, [0.0], chosen, token, sums_E, np.ones(4, int), {})


def compared(losses: list[list[float]], other: list[list[float]], selection: float = 0.0):
    return gain(trained("ours", losses, selection), trained("random", other), "core_hours", 0)


RANDOM = [[5.0, 4.0, 3.0], [5.0, 4.0, 3.1]]


def test_tokens_and_compute_until_both_have_the_same_loss():
    """5 to 2.5 in 4000 tokens: 3.0 after 3200, 0.4 of random's 8000; selection costs 2 hours more."""
    found = compared([[5.0, 2.5, 2.0]], RANDOM[:1], selection=2.0)
    assert found.loss.mean == pytest.approx(-1.0)
    assert found.reaches == [pytest.approx(3200)]
    assert found.reached == [None]  # random is never at 2.0
    assert found.tokens.mean == pytest.approx(1 - 0.4)
    assert found.compute.mean == pytest.approx(1 - (2 + 3.2) / 8)
    assert found.whole.mean == pytest.approx(1 - (2 + 8) / 8)


def test_of_a_worse_method_the_other_reaches_its_final_loss():
    """Ours ends at 3.5, where random is after 6000 tokens: a third more tokens, and more compute."""
    found = compared([[5.0, 4.5, 3.5]], RANDOM[:1], selection=1.0)
    assert (found.reaches, found.reached) == ([None], [pytest.approx(6000)])
    assert found.tokens.mean == pytest.approx(1 - 8 / 6)
    assert found.compute.mean == pytest.approx(1 - 9 / 6)


def test_shares_are_averaged_by_their_logarithm():
    found = Estimate.of_ratios([0.5, 2.0])
    assert found.mean == pytest.approx(0)
    half = HALF * np.log(4) / 2**0.5 / 2**0.5
    assert found.interval == pytest.approx([1 - np.exp(half), 1 - np.exp(-half)], rel=1e-4)


def test_a_later_stage_pays_for_its_selection_when_it_begins():
    curves = {0: (POINTS, np.array([5.0, 4.0, 3.0]))}
    stages = [Cost(core_hours=1.0), Cost(core_hours=2.0)]
    ours = Trained("m", curves, [0.0, 4000.0], stages, Cost(core_hours=0.001), POINTS, POINTS, {})
    hours = [ours.spent(tokens).core_hours for tokens in (0, 4000, 4001)]
    assert hours == pytest.approx([1, 5, 7.001])


def test_the_smallest_difference_is_that_of_the_spread_of_pairs():
    found = compared([[5.0, 3.0, 2.0], [5.0, 3.0, 2.4]], RANDOM)  # -1.0 and -0.7
    spread = 0.3 / 2**0.5
    assert found.smallest == pytest.approx(smallest_difference(spread, 2))
    assert smallest_difference(spread, 2) > 0.85 > smallest_difference(spread, 3)
    assert found.needed == 3
    assert compared([[5.0, 3.0, 2.0]], RANDOM[:1]).smallest is None


def said(*arguments, **more) -> str:
    return sentence(compared(*arguments, **more)).replace("\u00a0", " ")


NEAR = [[5.0, 4.0, 3.0], [5.0, 4.0, 3.01], [5.0, 4.0, 2.99]]
BETTER = [[5.0, 2.9, 2.0], [5.0, 2.9, 2.01], [5.0, 2.89, 2.0]]


def test_a_selection_that_saves_tokens_and_compute():
    text = said(BETTER, NEAR, selection=1.0)
    assert text == (
        "With 3 paired seeds and 95 % intervals, ours reached the final loss of random with 52.5 % "
        "fewer training tokens (52.1 to 52.8 %); counting its selection, it took 40.0 % fewer "
        "core-hours (39.6 to 40.3 %)."
    )


def test_a_selection_that_costs_more_than_it_saves_is_said_to():
    text = said(BETTER, NEAR, selection=5.0)
    assert "with 52.5 % fewer training tokens (" in text
    assert "; counting its selection, it took 10.0 % more core-hours (9.7 to 10.4 %)." in text


def test_a_cost_whose_interval_holds_zero_is_neither_fewer_nor_more():
    losses = [[5.0, 2.9, 2.0], [5.0, 3.2, 2.0], [5.0, 3.5, 2.0]]
    text = said(losses, NEAR, selection=3.0)
    assert "; counting its selection, it is not shown to take fewer or more core-hours (" in text


def test_an_interval_that_holds_zero_shows_no_difference():
    losses = [[5.0, 4.0, 2.8], [5.0, 4.0, 3.2], [5.0, 4.0, 2.9]]
    text = said(losses, NEAR, selection=2.0)
    assert text.startswith(
        "With 3 paired seeds and 95 % intervals, no difference between the final losses of ours and "
        "random is shown ("
    )
    assert "nats); with its selection, all of its training took 25.0 % more" in text
    assert "reached" not in text


def test_one_seed_is_no_evidence():
    text = said(BETTER[:1], NEAR[:1], selection=5.0)
    assert text == (
        "With one seed, ours ended 1.000 nats below random; to the worse of both final losses it took "
        "52.4 % fewer training tokens; counting its selection, it took 10.1 % more core-hours. One "
        "training has no interval: this is no evidence of a difference."
    )


def test_a_method_that_did_not_reach_the_other_is_said_not_to():
    worse = [[5.0, 4.5, 3.5], [5.0, 4.5, 3.52], [5.0, 4.5, 3.48]]
    text = said(worse, NEAR, selection=1.0)
    assert "ours ended 0.500 nats above random (" in text
    assert "and did not reach its final loss; to the worse of both final losses it took 33." in text
    assert "% more training tokens" in text and "fewer" not in text


def test_fewer_tokens_are_not_claimed_where_only_the_loss_differs():
    losses = [[5.0, 2.0, 2.9], [5.0, 4.0, 2.89], [5.0, 4.0, 2.88]]
    text = said(losses, NEAR)
    assert "below random (" in text
    assert "but is not shown to need fewer training tokens for the same loss (" in text


def test_a_training_that_ended_no_better_than_it_began_tells_no_share():
    found = compared([[2.0, 2.5, 3.0]], [[2.0, 2.1, 2.2]])
    assert found.tokens is None and found.compute is None
    assert "training tokens" not in sentence(found)


def test_without_records_nothing_is_said_of_cost():
    ours, other = trained("ours", BETTER), trained("random", NEAR)
    assert sentence(gain(ours, other, None, 0)).endswith(
        "; what its selection cost is not recorded."
    )
