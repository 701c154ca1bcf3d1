"""The grammar of hyper_search, names of trials, and what their params.json holds."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.load import load_params
from config.space import (
    LONGEST_NAME,
    MOST_COMBINATIONS,
    Choices,
    Range,
    belongs,
    child_params,
    combined,
    lookup,
    probes,
    read_axes,
    same,
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
    assert axis.domain.grid() == (0.1, [0.1, 0.2, 0.3])
    assert axis.when == {}
    assert axis.with_value({}, [0.1, 0.2, 0.3]) == {"learning_rate": [0.1, 0.2, 0.3]}


def test_linked_parameters_change_together():
    (axis,) = axes({"arch,batch_size": [["conv", 8], ["deep", 16]]})
    assert axis.with_value({"ps": 0}, ["deep", 16]) == {"ps": 0, "arch": "deep", "batch_size": 16}
    with pytest.raises(ValueError, match="zip"):
        axis.with_value({}, ["deep"])


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


def test_a_grid_ends_where_there_are_too_many():
    assert len(Range(0, MOST_COMBINATIONS - 1, step=1).grid()) == MOST_COMBINATIONS
    assert len(Range(0, 10**9, step=1).grid()) == MOST_COMBINATIONS + 1  # enough to be refused


def test_whole_numbers_are_equally_likely_at_the_ends_too():
    drawn = [Range(1, 4, whole=True).at((n + 0.5) / 400) for n in range(400)]
    assert [drawn.count(n) for n in (1, 2, 3, 4)] == [100] * 4


def test_a_log_range_is_even_in_its_logarithm():
    drawn = [math.log10(Range(1e-4, 1e-1, log=True).at((n + 0.5) / 300)) for n in range(300)]
    assert [sum(d < e for d in drawn) for e in (-3, -2)] == [100, 200]


@pytest.mark.parametrize(
    ("domain", "held", "others"),
    [
        (
            Choices((1, "a", [0.1], {"a": 1, "b": 2})),
            [1, "a", [0.1], {"b": 2, "a": 1}],
            [True, "1", [0.1, 0.2], {}, None],
        ),
        (Range(0.1, 0.5), [0.1, 0.3, 0.5], [0.09, 0.51, "0.3", None, [0.3]]),
        (Range(0, 1), [0, 1, 0.5], [True, False]),
        (Range(1, 9, whole=True), [1, 5, 9, 5.0], [0, 10, 5.5, True]),
        (Range(0.1, 0.5, step=0.1), [0.1, 0.2, 0.3, 0.5], [0.25, 0.6]),
        (Range(1, 8, log=True, step=2, whole=True), [1, 2, 4, 8], [3, 16]),
    ],
)
def test_what_a_domain_holds(domain, held, others):
    assert all(domain.holds(value) for value in held)
    assert not any(domain.holds(value) for value in others)


@pytest.mark.parametrize(
    ("domain", "value", "position"),
    [
        (Range(2, 6), 3, 0.25),
        (Range(2, 6), 6, 1.0),
        (Range(1e-4, 1, log=True), 1e-3, 0.25),
        (Range(1, 4, whole=True), 1, 0.125),
        (Range(1, 4, whole=True), 4, 0.875),
        (Range(1, 15, whole=True, log=True), 8, math.log(16) / math.log(31)),
    ],
)
def test_the_place_of_a_number(domain, value, position):
    assert domain.place(value) == pytest.approx(position, abs=1e-12)
    assert domain.at(domain.place(value)) == value


@given(st.integers(1, 500), st.booleans())
def test_the_place_of_a_whole_number_leads_back_to_it(value, log):
    domain = Range(1, 500, log=log, whole=True)
    assert domain.at(domain.place(value)) == value


def test_a_condition_is_about_earlier_values_or_the_file():
    arch, drop, patience = axes({
        "arch": ["conv", "deep"],
        "ps": {"values": [0, 0.9], "when": {"arch": "deep"}},
        "early_stopping.patience": {"values": [1, 2], "when": {"batch_size": [8]}},
    })  # fmt: skip
    assert (drop.names, drop.when, patience.when) == (("ps",), {"arch": ["deep"]}, {"batch_size": [8]})
    assert not drop.active({"arch": "conv"}, BASE)
    assert drop.active({"arch": "deep"}, BASE)
    assert not drop.active({}, BASE)
    assert not patience.active({"batch_size": 9}, BASE)
    assert patience.active({}, BASE)
    assert arch.active({}, BASE)


A_LIST = 'it must be a list of values, or a range {"low": ..., "high": ...}'
ONE_OF_TWO = 'it must be a list, {"values": [...]} or a range {"low": ..., "high": ...}'
NOT_SEARCHED = "does not change a training; it cannot be searched"
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"ps": 0.5}, f"ps: it is 0.5; {A_LIST}"),
    ({"ps": []}, f"ps: it is []; {A_LIST}"),
    ({"ps": {"values": 1}}, f"ps: it is 1; {A_LIST}"),
    ({"ps": None}, f"ps: it is null; {A_LIST}"),
    ({"ps": [0.5, 0.5]}, "ps: it lists a value twice"),
    ({"ps": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]}, "ps: it lists a value twice"),
    ({"ps": [0.5], "ps,batch_size": [[0.1, 8]]}, "ps,batch_size: ps is searched twice"),
    ({"ps": [0.5], "arch": ["conv"], "ps,batch_size": [[0.1, 8]]}, "ps,batch_size: ps is searched twice"),
    (
        {"early_stopping": [None], "early_stopping.patience": [1]},
        "early_stopping.patience: early_stopping.patience is searched twice",
    ),
    ({"early_stopping.patience": [1], "early_stopping": [None]}, "early_stopping: early_stopping is searched twice"),
    ({"ps,ps": [[1, 2]]}, "ps,ps: it names a parameter twice"),
    ({"about": ["a"]}, f"about: about {NOT_SEARCHED}"),
    ({"about.a": {"values": ["a"]}}, f"about.a: about.a {NOT_SEARCHED}"),
    ({"ps": {"low": 0}}, "ps: its high is null; it must be a number"),
    ({"ps": {"high": 1}}, "ps: its low is null; it must be a number"),
    ({"ps": {"low": 0, "high": True}}, "ps: its high is true; it must be a number"),
    ({"ps": {"low": 0, "high": 1, "step": None}}, "ps: its step is null; it must be a number"),
    ({"ps": {"low": 0.5, "high": 0.5, "step": 1}}, "ps: its low 0.5 must be below its high 0.5"),
    ({"ps": {"low": 0, "high": 1, "log": True, "step": 2}}, "ps: its low is 0; with log it must be above 0"),
    (
        {"ps": {"low": 0.1, "high": 1, "log": True, "step": 1}},
        "ps: its step is 1; it must be above 1, as low is multiplied by it",
    ),
    ({"ps": {"low": 0.1, "high": 1, "step": 0}}, "ps: its step is 0; it must be above 0"),
    (
        {"ps": {"low": 0.1, "high": 1}},
        'ps: a grid needs a "step" in every range; or set "search": {"method": "random"}',
    ),
    ({"ps": {"low": 0.5, "high": 2, "int": True, "step": 1}}, "ps: its low is 0.5; it must be whole, as int is given"),
    ({"ps": {"low": 1, "high": 2, "step": 2, "log": "yes"}}, 'ps: its log is "yes"; it must be true or false'),
    ({"ps": {"low": 1, "high": 2, "step": 2, "int": 2}}, "ps: its int is 2; it must be true or false"),
    ({"ps": {"low": 0, "hihg": 1}}, 'ps: "hihg" is not known here; did you mean "high"?'),
    (
        {"ps": {"low": 0, "xyzzy": 1}},
        'ps: "xyzzy" is not known here; choose from high, int, log, low, step, values, when',
    ),
    ({"ps": {"low": 0, "values": [1]}}, f"ps: {ONE_OF_TWO}"),
    ({"ps": {"when": {"arch": ["conv"]}}}, f"ps: {ONE_OF_TWO}"),
    (
        {"ps": {"values": [0], "when": ["conv"]}},
        'ps: its when is ["conv"]; it must read {"arch": ["resnet50"]}',
    ),
    (
        {"ps": {"values": [0], "when": {"arhc": ["conv"]}}},
        'ps: its when asks for "arhc", which this file does not hold; did you mean "arch"?',
    ),
    (
        {"ps": {"values": [0], "when": {"arch": ["conv"]}}, "arch": ["conv"]},
        'ps: its when asks for "arch", which must come before ps in hyper_search',
    ),
    (
        {"ps": {"values": [0], "when": {"arch": ["conv"]}}, "arch,batch_size": [["conv", 8]]},
        'ps: its when asks for "arch", which must come before ps in hyper_search',
    ),
    (
        {"arch": ["conv", "deep"], "ps": {"values": [0], "when": {"arch": ["conv", "depe"]}}},
        'ps: its when asks for arch "depe", which is not tried; did you mean "deep"?',
    ),
    (
        {"arch": ["deep"], "ps": {"values": [0], "when": {"arch": "conv"}}},  # the file's own
        'ps: its when asks for arch "conv", which is not tried; choose from deep',
    ),
    ({"ps": {"values": [0], "when": {"arch": []}}}, "ps: its when lists no value of arch"),
    (
        {"ps": {"values": [0], "when": {"batch_size": [16]}}},
        "ps: its when asks for batch_size 16, which is not tried",
    ),
    (
        {"arch,batch_size": [["conv", 8], ["deep", 16]], "ps": {"values": [0], "when": {"batch_size": [16, 9]}}},
        "ps: its when asks for batch_size 9, which is not tried",
    ),
    (
        {"seed": {"low": 1, "high": 9, "step": 2, "int": 1}, "ps": {"values": [0], "when": {"seed": [3, 4]}}},
        "ps: its when asks for seed 4, which is not tried",
    ),
    ({"arch,ps": [["conv", 1], ["deep"]]}, 'arch,ps: ["deep"] must be a list of 2: one value for each of arch, ps'),
    ({"arch,ps": [["conv", 1], 5]}, "arch,ps: 5 must be a list of 2: one value for each of arch, ps"),
    ({"arch,ps": {"low": 1, "high": 2}}, "arch,ps: parameters that change together need a list"),
]


@pytest.mark.parametrize(("search", "message"), MISTAKES)
def test_mistakes(search, message):
    with pytest.raises(UserError) as caught:
        axes(search)
    assert str(caught.value) == f"params.json: hyper_search: {message}"


@pytest.mark.parametrize("search", [{}, None])
def test_nothing_to_search(search):
    with pytest.raises(UserError) as caught:
        axes(search)
    assert str(caught.value) == (
        'params.json: hyper_search is missing; it names what is tried, as in {"learning_rate": [0.01, 0.001]}'
    )


def test_all_mistakes_are_told():
    with pytest.raises(UserError) as caught:
        axes({"ps": [], "batch_size": {"low": 1, "high": 2}, "about": {"values": [0], "when": 1}})
    lines = [line.split(": ")[:3] for line in str(caught.value).split("\n")]
    assert lines == [["params.json", "hyper_search", key] for key in ("ps", "batch_size", "about", "about")]
    assert str(caught.value).count("\n") == 3


def test_a_range_needs_no_step_when_drawn_from():
    (axis,) = axes({"ps": {"low": 0, "high": 1}}, grid=False)
    assert axis.domain == Range(0, 1)
    assert axis.domain.grid() == ()


def test_the_kinds_of_a_range():
    whole, log, plain = axes(
        {"batch_size": {"low": 1, "high": 9, "int": 1}, "ps": {"low": 1, "high": 2, "log": 1}, "seed": {"values": [1]}},
        grid=False,
    )
    assert whole.domain == Range(1, 9, whole=True)
    assert log.domain == Range(1, 2, log=True)
    assert plain.domain == Choices((1,))


def test_a_condition_can_be_about_the_value_that_a_conditional_parameter_has_otherwise():
    *_, last = axes({
        "arch": ["conv", "deep"],
        "ps": {"values": [0, 0.9], "when": {"arch": "deep"}},
        "seed": {"values": [1, 2], "when": {"ps": [0.5, 0.9]}},
    })  # fmt: skip
    assert last.active({"arch": "conv"}, BASE)


# --- combinations ---

CONDITIONAL = {
    "arch": ["conv", "deep"],
    "ps,batch_size": {"values": [[0, 8], [0.9, 16]], "when": {"arch": "deep"}},
    "seed": {"low": 1, "high": 9, "int": True, "when": {"ps": 0.9}},
}


def test_the_value_of_an_axis_in_a_combination():
    arch, linked, _ = axes(CONDITIONAL, grid=False)
    combination = {"arch": "conv", "batch_size": 16, "ps": 0.9}
    assert (arch.value(combination), linked.value(combination)) == ("conv", [0.9, 16])
    assert linked.with_value({"arch": "conv"}, linked.value(combination)) == combination


def test_a_combination_has_the_axes_in_force():
    found = axes(CONDITIONAL, grid=False)
    chosen = dict(zip([axis.names for axis in found], ["deep", [0.9, 16], 3], strict=True))
    whole = {"arch": "deep", "ps": 0.9, "batch_size": 16, "seed": 3}
    assert combined(found, BASE, lambda axis: chosen[axis.names]) == whole
    chosen["ps", "batch_size"] = [0, 8]
    assert combined(found, BASE, lambda axis: chosen[axis.names]) == {"arch": "deep", "ps": 0, "batch_size": 8}
    chosen["arch",] = "conv"
    assert combined(found, BASE, lambda axis: chosen[axis.names]) == {"arch": "conv"}
    assert belongs(whole, found, BASE)


def test_a_condition_can_be_about_what_is_not_searched():
    found = axes({"ps": {"values": [0, 0.1, 0.2], "when": {"arch": "conv"}}})
    for base, combination in ((BASE, {"ps": 0.1}), (BASE | {"arch": "deep"}, {})):
        assert combined(found, base, lambda axis: 0.1) == combination
        assert belongs(combination, found, base)
    assert not belongs({}, found, BASE)
    assert probes(found, BASE) == [{"ps": 0}, {"ps": 0.1}, {"ps": 0.2}]
    assert probes(found, BASE | {"arch": "deep"}) == []


def test_the_ends_of_a_range_with_steps_are_probed():
    assert probes(axes({"ps": {"low": 0.1, "high": 0.5, "step": 0.1}}), BASE) == [{"ps": 0.1}, {"ps": 0.5}]


@pytest.mark.parametrize(
    "combination",
    [
        {},
        {"arch": "resnet18"},
        {"arch": "conv", "ps": 0, "batch_size": 8},
        {"arch": "deep"},
        {"arch": "deep", "ps": 0},
        {"arch": "deep", "ps": 0, "batch_size": 16},
        {"arch": "deep", "ps": 0, "batch_size": 8, "seed": 3},
        {"arch": "deep", "ps": 0.9, "batch_size": 16},
        {"arch": "deep", "ps": 0.9, "batch_size": 16, "seed": 10},
        {"arch": "deep", "ps": 0.9, "batch_size": 16, "seed": 3, "wd": 0},
    ],
)
def test_what_no_search_over_these_axes_would_try(combination):
    assert not belongs(combination, axes(CONDITIONAL, grid=False), BASE)


def test_combinations_that_are_one():
    assert same({"ps": 0.5, "arch": "conv"}, {"arch": "conv", "ps": 0.5})
    assert not same({"ps": 1}, {"ps": True})
    assert not same({"ps": 1}, {"ps": 1, "wd": 0})


def test_probes_try_every_value_and_both_ends_of_a_range():
    found = axes(CONDITIONAL | {"wd": {"values": [0, 1], "when": {"arch": "conv", "ps": 0.9}}}, grid=False)
    probed = probes(found, BASE)
    assert all(belongs(combination, found, BASE) for combination in probed)
    assert {"arch": "conv"} in probed
    assert {c.get("ps") for c in probed} == {None, 0, 0.9}
    assert {1, 9} <= {c.get("seed") for c in probed}
    assert not any("wd" in c for c in probed)  # nothing leads there
    assert len(probed) <= 6
    assert len({json.dumps(c, sort_keys=True) for c in probed}) == len(probed)
    assert probes(found, BASE) == probed


# --- trials ---


def test_names():
    assert trial_name({"learning_rate": 0.0001}, 1) == "learning_rate_0.0001"
    assert trial_name({"learning_rate": 0.001, "ps": 0.5}, 1) == "learning_rate_0.001-ps_0.5"
    assert trial_name({"learning_rate": [1e-5, 0.1]}, 3) == "learning_rate_0.00001_0.1-seed_3"
    assert trial_name({"cuda": True, "early_stopping": None}, 1) == "cuda_true-early_stopping_null"
    assert trial_name({}, 2) == "base-seed_2"
    assert trial_name({"optimizer": "AdamW", "arch": "v2.a+b-c"}, 1) == "optimizer_AdamW-arch_v2.a+b-c"


def test_a_digest_follows_from_the_values_alone():
    one, other = (trial_name(c, 2, digest=True) for c in ({"ps": 1, "wd": 2}, {"wd": 2, "ps": 1}))
    assert re.fullmatch(r"ps_1-wd_2-[0-9a-f]{8}-seed_2", one)
    assert one[-15:] == other[-15:]
    assert trial_name({"ps": 1}, 1, digest=True) != trial_name({"ps": 1.0}, 1, digest=True)


def test_the_longest_name_needs_no_digest():
    value = "a" * (LONGEST_NAME - len("arch_"))
    assert trial_name({"arch": value}, 1) == f"arch_{value}"
    assert re.fullmatch(r"arch_a{106}-[0-9a-f]{8}", trial_name({"arch": value + "a"}, 1))


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
    assert [child_params(base, {}, seed)["seed"] for seed in (1, 2, 3)] == [4, 5, 6]
    assert [child_params({"arch": "conv"}, {}, seed).get("seed") for seed in (1, 2)] == [None, 1]
    assert lookup(child, "early_stopping.patience") == 9
    assert lookup(child, "early_stopping.x.y") is None


def test_a_childs_params_are_its_own():
    base = {"arch": "conv", "augment": [{"name": "flip"}], "optimizer_arguments": {"betas": [0.9, 0.99]}}
    combination = {"normalize": {"mean": [0.5]}}
    child = child_params(base, combination, 1)
    child["augment"][0]["name"] = child["optimizer_arguments"]["betas"][0] = child["normalize"]["mean"][0] = "changed"
    assert "changed" not in json.dumps([base, combination])


def test_every_combination_is_checked_and_each_mistake_told_once(tmp_path: Path):
    path = tmp_path / "params.json"
    path.write_text(json.dumps(BASE | {"hyper_search": {"ps": [0.5, 2]}}))
    good: list[dict[str, Any]] = [{"learning_rate": [0.1, 0.2, 0.3]}, {"early_stopping.patience": 1}, {"arch": "deep"}]
    assert wrong_combinations(path, good) == []
    wrong = wrong_combinations(
        path, [*good, {"ps": 2, "about": "a --set b"}, {"ps": 2, "batch_size": 0}, {"wd": "--set "}]
    )
    assert wrong == [
        "hyper_search: ps=2: ps is 2; it must be a number at least 0 and below 1",
        "hyper_search: batch_size=0: batch_size is 0; it must be a whole number from 1 to 1000000",
        'hyper_search: wd="--set ": wd is "--set "; it must be a number at least 0',
    ]
    assert wrong_combinations(path, [{"arch": "dep"}], {"arch": {"deep": None}}) == [
        'hyper_search: arch="dep": arch is "dep", which is not known; did you mean "deep"?'
    ]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"method": "tp"}, "search.method"),
        ({"trials": 0}, "search.trials"),
        ({"metric": "recall"}, "its metric must be"),
        ({"metric": "loss", "mode": "max"}, 'its mode must be "min" or null'),
        ({"mode": "min"}, 'its mode must be "max" or null, as it compares by accuracy'),
        ({"pruner": "ahsa"}, 'did you mean "asha"'),
        ({"pruner": {"name": "median", "reduction": 3}}, "its reduction is nothing to median"),
        ({"pruner": {"name": "hyperband", "startup": 3}}, "its startup is nothing to hyperband"),
        ({"pruner": "asha", "seeds": 3}, "judges single trainings: set seeds to 1"),
        ({"keep_weights": "top5"}, 'did you mean "top3"'),
        ({"trails": 3}, 'did you mean "trials"'),
    ],
)
def test_the_search_key_is_checked(tmp_path: Path, search, message):
    path = tmp_path / "params.json"
    path.write_text(json.dumps({"arch": "conv", "search": search}))
    with pytest.raises(UserError, match=message):
        load_params(path)
