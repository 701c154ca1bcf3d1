import pytest
from scipy import stats

from bench.interval import with_interval


def test_a_mean_has_its_t_interval():
    low, high = stats.t.interval(0.95, 2, 2.0, stats.sem([1.0, 2.0, 3.0]))
    assert with_interval([1.0, 2.0, 3.0]) == f"2.0000 [{low:.4f}, {high:.4f}]"
    assert with_interval([1.0, 2.0, 3.0], 1) == f"2.0 [{low:.1f}, {high:.1f}]"


@pytest.mark.parametrize(("values", "told"), [([], ""), ([0.5], "0.5000 (n = 1)"), ([0.5, 0.7], "0.6000 (n = 2)")])
def test_few_values_have_none(values, told):
    assert with_interval(values) == told
