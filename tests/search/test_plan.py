"""The trials of a search: which there are, and their names."""

import json

import pytest

from config.run_folder import RunFolder
from search.layout import add, lay_out
from search.plan import about, confirmation, make_plan
from tests.search.searches import search_folder
from utils import UserError


def names(plan):
    return [trial.name for trial in plan.trials]


def test_trials_are_named_and_every_seed_comes_after_all_combinations(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.001]}, search={"seeds": 2}, seed=5)
    plan = make_plan(parent)
    lay_out(plan)
    assert names(plan) == [f"learning_rate_{rate}{seed}" for seed in ("", "-seed_2") for rate in ("0.01", "0.001")]
    child = json.loads((parent / "learning_rate_0.001-seed_2" / "params.json").read_text())
    assert (child["learning_rate"], child["seed"]) == (0.001, 6)
    assert not {"hyper_search", "search"} & set(child)
    assert about(parent / "learning_rate_0.01")["values"] == {"learning_rate": 0.01}
    assert {RunFolder(trial.path).status()["state"] for trial in plan.trials} == {"queued"}


def test_names_that_only_differ_in_case_get_folders_of_their_own(tmp_path):
    plan = make_plan(search_folder(tmp_path / "x", {"arch": ["conv", "Conv"]}))
    assert len({name.casefold() for name in names(plan)}) == 2


def test_a_wrong_value_is_told_before_anything_is_made(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.1, -1], "ps": [0.5, 2]})
    with pytest.raises(UserError) as caught:
        make_plan(parent)
    assert len(str(caught.value).splitlines()) == 2
    assert [path.name for path in parent.iterdir()] == ["params.json"]


def test_command_line_overrides(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": {"low": 0.001, "high": 0.1}})
    with pytest.raises(UserError, match="needs a"):
        make_plan(parent)
    assert len(make_plan(parent, ["search.method=random", "search.trials=3"]).trials) == 3
    plan = make_plan(parent, ["search.method=random", "search.trials=3", 'search.pruner={"name": "asha", "grace": 1}'])
    lay_out(plan)
    known = {"method": "random", "trials": 3, "pruner": {"name": "asha", "grace": 1}}
    assert about(plan.trials[0].path)["settings"] == known
    with pytest.raises(UserError, match=r"search\.method"):
        make_plan(parent, ["search.method=rndom"])


def test_seed_is_searched_or_repeated(tmp_path):
    with pytest.raises(UserError, match="keep one of them"):
        make_plan(search_folder(tmp_path / "x", {"seed": [1, 2]}, search={"seeds": 2}, seed=0))


def test_confirmation_is_the_combination_with_more_seeds(tmp_path):
    plan = make_plan(search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.001]}))
    found = confirmation(plan, {"learning_rate": 0.001}, 3)
    assert [t.name for t in found] == ["learning_rate_0.001" + end for end in ("", "-seed_2", "-seed_3")]
    assert found[2].params["seed"] == 2


def test_confirmation_reuses_the_seeds_that_the_search_trains_whatever_their_names(tmp_path):
    rates = [[0.1 / n for n in range(1, 25)], [0.2 / n for n in range(1, 25)]]  # names are cut
    space = {"learning_rate": rates, "arch": ["conv", "Conv"]}
    plan = make_plan(search_folder(tmp_path / "x", space, search={"seeds": 2}, layer_groups=24))
    for trial in plan.trials[:4]:
        found = confirmation(plan, trial.combination, 3)
        assert found[:2] == (trial, plan.trials[trial.number + 3])
        assert found[2].name not in names(plan)
        assert found[2].params["seed"] == 2


@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_trials_keep_the_weights_that_are_best_by_the_metric_of_the_search(tmp_path, method):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.1]}, search={"method": method})
    kept = [make_plan(parent, more).base.get("best_metric") for more in ([], ["search.metric=loss"])]
    assert kept == [None, "loss"]
    assert make_plan(parent, ["search.metric=accuracy"]).digest == make_plan(parent).digest
    plan = make_plan(parent, ["search.metric=loss"])
    trial = plan.trials[0] if method == "grid" else add(plan, {"learning_rate": 0.1})[0]
    assert trial.params["best_metric"] == "loss"


def test_what_is_better(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01]})
    assert make_plan(parent).greater
    assert not make_plan(parent, ["search.metric=loss"]).greater
    assert not make_plan(parent, ["search.metric=loss", "search.mode=min"]).greater
