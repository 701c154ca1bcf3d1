"""The grammar of hyper_search, names of trials, and what their params.json holds."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.load import load_params
from config.space import (
    LONGEST_NAME,
    Choices,
    Range,
    child_params,
    lookup,
    read_axes,
    trial_name,
    wrong_combinations,
)
from utils import UserError

BASE: dict[str, Any] = {
    "arch": "conv", "batch_size": 8, "learning_rate": 0.01, "ps": 0.5, "seed": 4, "about": "x",
    "early_stopping": {"patience": 3},
}  # fmt: skip


def axes(search: Any, *, grid: bool = True):
    return read_axes(BASE | {"hyper_search": search}, "params.json", grid=grid)


def test_a_list_is_a_list_of_values_and_an_inner_list_is_one():
    (axis,) = axes({"learning_rate": [0.1, [0.1, 0.2, 0.3]]})
    assert axis.domain == Choices((0.1, [0.1, 0.2, 0.3]))
    assert axis.with_value({}, [0.1, 0.2, 0.3]) == {"learning_rate": [0.1, 0.2, 0.3]}


def test_linked_parameters_change_together():
    (axis,) = axes({"arch,batch_size": [["conv", 8], ["deep", 16]]})
    assert axis.with_value({"ps": 0}, ["deep", 16]) == {"ps": 0, "arch": "deep", "batch_size": 16}


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ({"low": 0.1, "high": 0.3, "step": 0.1}, [0.1, 0.2, 0.3]),
        ({"low": 1, "high": 6, "step": 2, "int": True}, [1, 3, 5]),
        ({"low": 1e-5, "high": 1e-1, "log": True, "step": 100}, [1e-5, 1e-3, 1e-1]),
        ({"low": 8, "high": 32, "log": True, "step": 2, "int": True}, [8, 16, 32]),
    ],
)
def test_steps_are_exact_and_reach_the_end(written, values):
    (axis,) = axes({"learning_rate": written})
    assert axis.domain.grid() == values
    assert [type(v) for v in axis.domain.grid()] == [type(v) for v in values]
    assert {axis.domain.at(n / 100) for n in range(100)} == set(values)


@given(st.floats(0, 1, exclude_max=True), st.booleans(), st.booleans())
def test_a_range_is_never_left(position, log, whole):
    domain = Range(2, 65, log=log, whole=whole)
    value = domain.at(position)
    assert 2 <= value <= 65
    assert isinstance(value, int) == whole
    assert len(trial_name({"ps": value}, 1)) <= len("ps_12.3456")


def test_whole_numbers_are_equally_likely_at_the_ends_too():
    drawn = [Range(1, 4, whole=True).at((n + 0.5) / 400) for n in range(400)]
    assert [drawn.count(n) for n in (1, 2, 3, 4)] == [100] * 4


def test_a_log_range_is_even_in_its_logarithm():
    drawn = [math.log10(Range(1e-4, 1e-1, log=True).at((n + 0.5) / 300)) for n in range(300)]
    assert [sum(d < e for d in drawn) for e in (-3, -2)] == [100, 200]


def test_a_condition_is_about_earlier_values_or_the_file():
    arch, drop, patience = axes({
        "arch": ["conv", "deep"],
        "ps": {"values": [0, 0.9], "when": {"arch": "deep"}},
        "early_stopping.patience": {"values": [1, 2], "when": {"batch_size": [8]}},
    })  # fmt: skip
    assert not drop.active({"arch": "conv"}, BASE)
    assert drop.active({"arch": "deep"}, BASE)
    assert patience.active({}, BASE)
    assert arch.active({}, BASE)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({}, "hyper_search is missing"),
        ({"ps": 0.5}, r"ps: it is 0.5; it must be a list of values, or a range"),
        ({"ps": []}, "it must be a list of values"),
        ({"ps": [0.5, 0.5]}, "lists a value twice"),
        ({"ps": [0.5], "ps,batch_size": [[0.1, 8]]}, "ps is searched twice"),
        ({"early_stopping": [None], "early_stopping.patience": [1]}, "early_stopping.patience is searched twice"),
        ({"ps,ps": [[1, 2]]}, "names a parameter twice"),
        ({"about": ["a"]}, "cannot be searched"),
        ({"ps": {"low": 0}}, "its high is null; it must be a number"),
        ({"ps": {"low": 0.5, "high": 0.5, "step": 1}}, "must be below"),
        ({"ps": {"low": 0, "high": 1, "log": True, "step": 2}}, "must be above 0"),
        ({"ps": {"low": 0.1, "high": 1, "log": True, "step": 1}}, "must be above 1"),
        ({"ps": {"low": 0.1, "high": 1, "step": 0}}, "must be above 0"),
        ({"ps": {"low": 0.1, "high": 1}}, 'a grid needs a "step"'),
        ({"ps": {"low": 0.5, "high": 2, "int": True, "step": 1}}, "must be whole"),
        ({"ps": {"low": 1, "high": 2, "step": 2, "log": "yes"}}, "must be true or false"),
        ({"ps": {"low": 0, "hihg": 1}}, '"hihg" is not known here; did you mean "high"'),
        ({"ps": {"low": 0, "values": [1]}}, "it must be a list"),
        ({"ps": {"when": {"arch": ["conv"]}}}, "it must be a list"),
        ({"ps": {"values": [0], "when": ["conv"]}}, "it must read"),
        ({"ps": {"values": [0], "when": {"arhc": ["conv"]}}}, 'does not hold; did you mean "arch"'),
        ({"ps": {"values": [0], "when": {"arch": ["conv"]}}, "arch": ["conv"]}, "must come before ps"),
        ({"arch,ps": [["conv", 1], ["deep"]]}, "must be a list of 2"),
        ({"arch,ps": {"low": 1, "high": 2}}, "need a list"),
    ],
)
def test_mistakes(search, message):
    with pytest.raises(UserError, match=message) as caught:
        axes(search)
    assert str(caught.value).startswith("params.json: hyper_search")
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_told():
    with pytest.raises(UserError) as caught:
        axes({"ps": [], "batch_size": {"low": 1, "high": 2}})
    assert len(str(caught.value).splitlines()) == 2


def test_a_range_needs_no_step_when_drawn_from():
    assert axes({"ps": {"low": 0, "high": 1}}, grid=False)[0].domain == Range(0, 1)


# --- trials ---


def test_names():
    assert trial_name({"learning_rate": 0.0001}, 1) == "learning_rate_0.0001"
    assert trial_name({"learning_rate": 0.001, "ps": 0.5}, 1) == "learning_rate_0.001-ps_0.5"
    assert trial_name({"learning_rate": [1e-5, 0.1]}, 3) == "learning_rate_0.00001_0.1-seed_3"
    assert trial_name({"cuda": True, "early_stopping": None}, 1) == "cuda_true-early_stopping_null"
    assert trial_name({}, 2) == "base-seed_2"


def test_names_are_safe_short_and_differ():
    slash, space = trial_name({"arch": "a/../b"}, 1), trial_name({"arch": "a .._b"}, 1)
    assert slash.startswith("arch_a_.._b-")
    assert slash != space
    long = [trial_name({"optimizer": "x" * 500 + end}, 12) for end in "ab"]
    assert long[0] != long[1]
    assert all(len(name) == LONGEST_NAME and name.endswith("-seed_12") for name in long)


@given(st.dictionaries(st.sampled_from(list(BASE)), st.text() | st.floats(allow_nan=False) | st.lists(st.text())))
def test_any_name_is_one_folder(combination):
    name = trial_name(combination, 1)
    assert 0 < len(name) <= LONGEST_NAME
    assert name not in (".", "..")
    assert name.isascii()
    assert not set(name) & set("/\\ \n:")


def test_a_childs_params():
    base = BASE | {"hyper_search": {"ps": [1]}, "search": None, "$schema": "x"}
    child = child_params(base, {"early_stopping.patience": 9, "ps": 0.1}, 1)
    assert child == BASE | {"early_stopping": {"patience": 9}, "ps": 0.1}
    assert BASE["early_stopping"] == {"patience": 3}
    assert child_params(base, {}, 3)["seed"] == 6
    assert lookup(child, "early_stopping.patience") == 9
    assert lookup(child, "early_stopping.x.y") is None


def test_every_combination_is_checked_and_each_mistake_told_once(tmp_path: Path):
    path = tmp_path / "params.json"
    path.write_text(json.dumps(BASE | {"hyper_search": {"ps": [0.5, 2]}}))
    good: list[dict[str, Any]] = [{"learning_rate": [0.1, 0.2, 0.3]}, {"early_stopping.patience": 1}, {"arch": "deep"}]
    assert wrong_combinations(path, good) == []
    wrong = wrong_combinations(path, [*good, {"ps": 2, "batch_size": 4}, {"ps": 2, "batch_size": 0}])
    assert len(wrong) == 2
    assert "hyper_search: ps=2: ps is 2" in wrong[0]
    assert wrong_combinations(path, [{"arch": "dep"}], {"arch": {"deep": None}}) == [
        'hyper_search: arch="dep": arch is "dep", which is not known; did you mean "deep"?'
    ]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"method": "tpe"}, "search.method"),
        ({"trials": 0}, "search.trials"),
        ({"metric": "recall"}, "its metric must be"),
        ({"metric": "loss", "mode": "max"}, "its mode must be"),
        ({"trails": 3}, 'did you mean "trials"'),
    ],
)
def test_the_search_key_is_checked(tmp_path: Path, search, message):
    path = tmp_path / "params.json"
    path.write_text(json.dumps({"arch": "conv", "search": search}))
    with pytest.raises(UserError, match=message):
        load_params(path)
