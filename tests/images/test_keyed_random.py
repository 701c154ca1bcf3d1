import numpy as np
import pytest

from images.keyed_random import integer_seed, permutation, uniform


def test_numbers_are_fixed_for_ever():
    """A stored experiment must come out the same years later: these values may not change."""
    assert uniform(0, 0, [0, 1], "flip").tolist() == [0.04022490307188875, 0.8912633020879325]
    assert integer_seed(0, "order", 3) == 4911884906542101933
    assert permutation(0, 0, 6, "order").tolist() == [0, 1, 4, 3, 5, 2]


def test_a_number_depends_on_its_sample_and_not_on_the_batch():
    whole = uniform(7, 2, np.arange(1000), "crop")
    assert np.array_equal(whole[[5, 999, 0]], uniform(7, 2, [5, 999, 0], "crop"))
    assert uniform(7, 2, 5, "crop").tolist() == [whole[5]]


def test_every_part_of_the_key_counts():
    base = uniform(1, 2, np.arange(64), "crop")
    for other in (
        uniform(2, 2, np.arange(64), "crop"),
        uniform(1, 3, np.arange(64), "crop"),
        uniform(1, 2, np.arange(64), "flip"),
        uniform(2, 1, np.arange(64), "crop"),
    ):
        assert not np.isin(base, other).any()


def test_values_are_uniform_and_uncorrelated():
    values = uniform(3, 0, np.arange(100_000), "a", low=-1.0, high=3.0)
    assert values.dtype == np.float64
    assert values.min() >= -1.0
    assert values.max() < 3.0
    counts = np.histogram(values, bins=100, range=(-1.0, 3.0))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 160  # chi-square, 99 degrees of freedom: p = 0.0001
    others = [uniform(3, 1, np.arange(100_000), "a"), uniform(3, 0, np.arange(100_000), "b"), np.roll(values, 1)]
    for other in others:
        assert abs(np.corrcoef(values, other)[0, 1]) < 0.015


def test_permutation_holds_every_number_once():
    for count in (0, 1, 2, 1000):
        assert sorted(permutation(5, 1, count, "order")) == list(range(count))
    first = np.array([permutation(seed, 0, 10, "order")[0] for seed in range(2000)])
    assert (np.bincount(first, minlength=10) > 140).all()


@pytest.mark.parametrize(("a", "b"), [((1, 23), (12, 3)), (("1",), (1,)), (("a", "b"), ("ab",)), ((0,), (0, 0))])
def test_integer_seeds_differ(a, b):
    assert integer_seed(*a) != integer_seed(*b)
    assert 0 <= integer_seed(*a) < 2**63


def test_numpy_integers_are_integers():
    assert integer_seed(np.int64(4), "x") == integer_seed(4, "x")
