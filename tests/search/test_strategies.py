"""Which combinations are proposed."""

import pytest

from config.parts import Search
from config.space import Axis, read_axes
from search.samplers import SAMPLERS
from search.strategies import STRATEGIES
from utils import UserError

BASE = {"arch": "conv", "learning_rate": 0.1, "ps": 0.5, "batch_size": 8}
RANGES = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "ps": {"low": 0.0, "high": 0.8, "step": 0.2},
    "arch": ["conv", "deep"],
    "batch_size": {"low": 4, "high": 64, "int": True, "when": {"arch": ["deep"]}},
}


def propose(search, **settings):
    method = settings.setdefault("method", "grid")
    base = BASE | {"hyper_search": search}
    return STRATEGIES[method](read_axes(base, "x", grid=method == "grid"), base, Search(**settings))


def test_every_method_of_the_schema_is_there():
    assert {*STRATEGIES, *SAMPLERS} == set(Search.model_fields["method"].annotation.__args__)


def test_a_grid_holds_every_combination_once_in_order():
    found = propose({"arch": ["conv", "deep"], "ps": {"values": [0.1, 0.2], "when": {"arch": ["deep"]}}})
    assert found == [{"arch": "conv"}, {"arch": "deep", "ps": 0.1}, {"arch": "deep", "ps": 0.2}]


def test_a_grid_has_a_limit():
    with pytest.raises(UserError, match="more than 10000 combinations"):
        propose({key: {"low": 1, "high": 30, "step": 1} for key in ("learning_rate", "ps", "batch_size")})


def test_a_grid_at_its_limit_is_whole_and_beyond_it_is_never_made(monkeypatch):
    made = []
    monkeypatch.setattr(Axis, "with_value", lambda *given: made.append(given) or {"ps": given[2]})
    hundred = {"low": 1, "high": 100, "step": 1}
    assert len(propose({"ps": hundred, "learning_rate": hundred})) == 10_000
    made.clear()
    with pytest.raises(UserError, match="more than 10000 combinations"):
        propose({"ps": hundred, "learning_rate": hundred | {"high": 101}})
    assert len(made) == 100


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_draws_are_the_same_each_time_distinct_and_a_part_of_longer_lists(method):
    draw = propose(RANGES, method=method, trials=12)
    assert draw == propose(RANGES, method=method, trials=12)
    assert draw == propose(RANGES, method=method, trials=50)[:12]
    assert draw != propose(RANGES, method=method, trials=12, seed=1)
    assert len({repr(combination) for combination in draw}) == 12
    assert all(("batch_size" in c) == (c["arch"] == "deep") for c in draw)


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_a_small_space_ends(method):
    assert len(propose({"ps": [0, 0.5], "arch": ["conv", "deep"]}, method=method, trials=50)) == 4


def test_a_draw_stays_when_another_parameter_is_searched_too():
    alone = propose({"ps": RANGES["ps"], "learning_rate": RANGES["learning_rate"]}, method="random", trials=5)
    more = propose(RANGES, method="random", trials=5)
    assert [c["learning_rate"] for c in alone] == [c["learning_rate"] for c in more]


def test_sobol_is_more_even_than_chance():
    found = propose({"ps": {"low": 0, "high": 1}}, method="sobol", trials=16)
    assert sorted(min(int(c["ps"] * 16), 15) for c in found) == list(range(16))
