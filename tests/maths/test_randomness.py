"""Random numbers that depend on seed, purpose and item, and on nothing else."""

import numpy as np
from scipy import stats

import waiting
from groupmates.maths.randomness import generator, hash64, priorities


def test_a_number_is_the_same_on_every_machine_and_in_every_process():
    # Fixed here: a change would draw other samples for every user's seed.
    code = "from groupmates.maths.randomness import hash64; print(hash64(0, 'sample', 'doc-1'))"
    found = waiting.python("-c", code)  # with other hashes of Python's own
    assert int(found.stdout) == hash64(0, "sample", "doc-1") == 15588392234412076951


def test_seed_purpose_and_item_each_change_the_number():
    numbers = {
        hash64(0, "sample", "a"),
        hash64(1, "sample", "a"),
        hash64(0, "fit", "a"),
        hash64(0, "sample", "b"),
    }
    assert len(numbers) == 4


def test_priorities_of_items_do_not_depend_on_their_order_or_company():
    items = [f"doc-{i}" for i in range(20)]
    whole = priorities(3, "sample", items)
    assert priorities(3, "sample", items[::-1])[::-1].tolist() == whole.tolist()
    assert priorities(3, "sample", items[5:9]).tolist() == whole[5:9].tolist()
    assert whole.dtype == np.uint64


def test_priorities_are_uniform_over_items_and_over_seeds():
    by_item = priorities(0, "sample", map(str, range(5000))) / 2.0**64
    by_seed = np.array([hash64(seed, "sample", "a") for seed in range(5000)]) / 2.0**64
    assert stats.kstest(by_item, "uniform").pvalue > 1e-3
    assert stats.kstest(by_seed, "uniform").pvalue > 1e-3
    other = priorities(1, "sample", map(str, range(5000))) / 2.0**64
    assert abs(np.corrcoef(by_item, other)[0, 1]) < 0.06


def test_the_generators_of_two_items_are_different_streams():
    draws = {item: generator(0, "rollout", item).random(3).tolist() for item in range(5)}
    assert len({tuple(d) for d in draws.values()}) == 5
    assert generator(0, "rollout", 3).random(3).tolist() == draws[3]
    assert generator(0, "rollout", "3").random(3).tolist() == draws[3]
