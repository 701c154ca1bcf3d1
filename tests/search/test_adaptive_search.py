"""True trainings that are paused at a rung, go on later, and are proposed by what came before them."""

import json
import random

import pytest

from config.run_folder import RunFolder
from search.jobs import end_after, let_go_on, look
from search.plan import make_plan
from tests.search.searches import search_folder
from tests.search.stand_in import EPOCHS
from tests.search.test_kills import harass
from tests.training.runs import experiment, outcome
from tests.training.test_run import run


@pytest.mark.slow
def test_a_training_pauses_after_the_named_epoch_and_goes_on_as_if_it_had_not(tiny_data, tmp_path):
    path = experiment(tmp_path / "x")
    end_after(path, 2, "asha")
    assert run(path, tiny_data) == 0
    assert RunFolder(path).status()["state"] == "pruned"
    assert len(json.loads((path / "history.json").read_text())["epochs"]) == 2
    let_go_on(path)
    assert look(path).state == "stopped"
    assert run(path, tiny_data) == 0
    undisturbed = experiment(tmp_path / "y")
    assert run(undisturbed, tiny_data) == 0
    assert outcome(path) == outcome(undisturbed)


@pytest.mark.slow
def test_tpe_with_asha_through_the_program(tiny_data, tmp_path):
    from search_hyperparams import main

    space = {"learning_rate": {"low": 0.0001, "high": 0.03, "log": True}, "ps": {"low": 0.0, "high": 0.5}}
    parent = search_folder(tmp_path / "x", space, num_epochs=4)
    command = ["--data_dir", str(tiny_data), "--parent_dir", str(parent), "--jobs", "2", "--gpus", "cpu"]
    command += ["--method", "tpe", "--trials", "12", "--pruner", '{"name": "asha", "reduction": 2, "grace": 1}']
    assert main(command) == 0
    plan = make_plan(parent, ["search.method=tpe", "search.trials=12"])
    assert len(plan.trials) == 12
    epochs = {}
    for trial in plan.trials:
        epochs[trial.name] = len(json.loads((trial.path / "history.json").read_text())["epochs"])
        assert look(trial.path).state == ("finished" if epochs[trial.name] == 4 else "pruned")
    assert set(epochs.values()) == {1, 2, 4}
    assert (parent / "results.md").is_file()
    before = {trial.name: (trial.path / "history.json").stat().st_mtime_ns for trial in plan.trials}
    assert main(command) == 0
    assert before == {trial.name: (trial.path / "history.json").stat().st_mtime_ns for trial in plan.trials}


@pytest.mark.parametrize(
    ("kills", "trials"),
    [pytest.param(3, 12, marks=pytest.mark.slow), pytest.param(24, 24, marks=pytest.mark.campaign)],
    ids=["sample", "campaign"],
)
def test_tpe_with_asha_ends_whatever_is_killed(kills, trials, stand_in_root, tmp_path):
    settings = {"method": "tpe", "trials": trials, "pruner": "asha"}
    space = {"learning_rate": {"low": 0.1, "high": 1.0}, "ps": {"low": 0.0, "high": 0.5}}
    parent = search_folder(tmp_path / "x", space, num_epochs=EPOCHS, search=settings)
    hit = harass(parent, tmp_path, kills, random.Random(kills), pause=0.5, root=stand_in_root)
    assert hit.total() == kills
    assert set(hit) == {"driver", "training", "server"}
    plan = make_plan(parent)
    assert len(plan.trials) == trials
    for trial in plan.trials:
        done = json.loads((trial.path / "checkpoint.pt").read_text())
        assert done == list(range(len(done)))
        assert look(trial.path).state == ("finished" if len(done) == EPOCHS else "pruned")
        assert (trial.path / "work.txt").read_text().count("finished") == (len(done) == EPOCHS)
    assert any(look(trial.path).state == "finished" for trial in plan.trials)


@pytest.mark.slow
def test_trials_start_from_the_best_of_a_folder(tiny_data, tmp_path):
    from search_hyperparams import main

    for name, rate in (("poor", 1e-6), ("good", 0.01)):
        assert run(experiment(tmp_path / "given" / name, learning_rate=rate), tiny_data) == 0
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.001]})
    command = ["--data_dir", str(tiny_data), "--parent_dir", str(parent), "--gpus", "cpu"]
    assert main([*command, "--weights", str(tmp_path / "given")]) == 0
    child = parent / "learning_rate_0.001"
    found = json.loads((child / "environment.json").read_text())["weights"]
    assert found["source"] == "experiment good"
    assert found["head"] == "loaded"


@pytest.mark.campaign
@pytest.mark.parametrize("kills", [8, 24])
def test_true_trainings_with_tpe_and_asha_whatever_is_killed(kills, tiny_data, tmp_path):
    settings = {"method": "tpe", "trials": 12, "pruner": {"name": "asha", "grace": 2, "reduction": 2}}
    space = {"learning_rate": {"low": 0.001, "high": 0.01, "log": True}, "ps": {"low": 0.0, "high": 0.5}}
    parent = search_folder(tmp_path / "x", space, num_epochs=6, search=settings)
    hit = harass(parent, tiny_data, kills, random.Random(kills), pause=3)
    assert hit.total() == kills
    plan = make_plan(parent)
    assert len(plan.trials) == 12
    states = {trial.name: look(trial.path).state for trial in plan.trials}
    assert set(states.values()) == {"finished", "pruned"}
    for trial in plan.trials:
        epochs = [row["epoch"] for row in json.loads((trial.path / "history.json").read_text())["epochs"]]
        assert epochs == list(range(1, len(epochs) + 1))
        assert (len(epochs) == 6) == (states[trial.name] == "finished")
        assert (trial.path / "train.log").read_text().count(": finished, best") == (states[trial.name] == "finished")
    done = next(trial for trial in plan.trials if states[trial.name] == "finished")
    alone = experiment(
        tmp_path / "alone", **{key: done.params[key] for key in ("learning_rate", "ps", "num_epochs", "seed")}
    )
    assert run(alone, tiny_data) == 0
    assert outcome(done.path) == outcome(alone)
