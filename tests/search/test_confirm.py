"""Confirming the best: which combination that is, with which seeds, and what the table then says."""

import csv
import json

import pytest

from config.run_folder import RunFolder
from search.confirm import to_confirm
from search.jobs import look
from search.layout import lay_out
from search.plan import about, make_plan
from search.table import write_results
from tests.search.folders import experiment
from tests.search.searches import search_folder
from utils import UserError

RATES = [0.1, 0.01, 0.001]


def finish(path, quality):
    """Leaves a trial as training would."""
    values, seed = about(path)["values"], json.loads((path / "params.json").read_text())["seed"]
    before = (path / "search.json").read_bytes()
    experiment(path, values, quality, seed)
    (path / "search.json").write_bytes(before)
    best = max(row["valid"]["accuracy"] for row in json.loads((path / "history.json").read_text())["epochs"])
    RunFolder(path).write_json("metrics_val_best_weights.json", {"accuracy": best})


@pytest.fixture
def plan(tmp_path):
    found = make_plan(search_folder(tmp_path / "x", {"learning_rate": RATES}))
    lay_out(found)
    return found


def names(trials):
    return [trial.name for trial in trials]


def ranks(plan):
    write_results(plan.parent.path)
    with (plan.parent.path / "results.csv").open(newline="") as file:
        return [(row["rank"], row["learning_rate"], row["seeds_finished"]) for row in csv.DictReader(file)]


def test_nothing_has_finished(plan):
    with pytest.raises(UserError, match="no trial has finished yet"):
        to_confirm(plan, 3)


def test_a_seed_is_no_setting_to_confirm(tmp_path):
    plan = make_plan(search_folder(tmp_path / "x", {"ps": [0.1, 0.2], "seed": [0, 1, 2]}))
    lay_out(plan)
    finish(plan.trials[0].path, 0.9)
    with pytest.raises(UserError, match=r"hyper_search lists seed, .* search with search.seeds instead"):
        to_confirm(plan, 4)


def test_the_leader_gets_more_seeds_and_may_fall_back(plan):
    for trial, quality in zip(plan.trials, (0.9, 0.85, 0.7), strict=True):
        finish(trial.path, quality)
    trials = to_confirm(plan, 3)
    assert names(trials) == ["learning_rate_0.1", "learning_rate_0.1-seed_2", "learning_rate_0.1-seed_3"]
    assert [look(trial.path).state for trial in trials] == ["finished", "queued", "queued"]
    assert about(trials[1].path)["confirm"]
    for trial in trials[1:]:
        finish(trial.path, 0.95)
    assert ranks(plan) == [("1", "0.1", "3"), ("2", "0.01", "1"), ("3", "0.001", "1")]
    for trial in trials[1:]:  # the first seed was luck: its row keeps all three, and goes down
        finish(trial.path, 0.75)
    assert ranks(plan) == [("1", "0.01", "1"), ("2", "0.1", "3"), ("3", "0.001", "1")]
    assert names(to_confirm(plan, 2)) == ["learning_rate_0.01", "learning_rate_0.01-seed_2"]


def test_only_finished_trainings_count(plan):
    for trial, quality in zip(plan.trials, (0.9, 0.85, 0.7), strict=True):
        finish(trial.path, quality)
    RunFolder(plan.trials[0].path).set_state("failed", reason="oom")
    assert names(to_confirm(plan, 1)) == ["learning_rate_0.01"]


def test_a_folder_that_a_killed_search_left_half_made_is_made(plan):
    for trial in plan.trials:
        finish(trial.path, 0.9 - trial.number / 10)
    (plan.parent.path / "learning_rate_0.1-seed_2").mkdir()
    assert look(to_confirm(plan, 2)[1].path).state == "queued"


def test_a_seed_that_was_trained_by_hand_is_not_trained_again(plan):
    for trial in plan.trials:
        finish(trial.path, 0.9 - trial.number / 10)
    seed_2 = plan.parent.path / "learning_rate_0.1-seed_2"
    experiment(seed_2, searched=False)
    params = json.loads((plan.trials[0].path / "params.json").read_text())
    (seed_2 / "params.json").write_text(json.dumps(plan.trials[0].params | {"seed": params["seed"] + 1}))
    assert look(to_confirm(plan, 2)[1].path).state == "finished"
    assert about(seed_2)["confirm"]
