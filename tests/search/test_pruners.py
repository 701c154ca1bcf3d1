"""Which trials end early, and which go on."""

import json
from collections import Counter

import pytest

from config.parts import Pruner
from config.run_folder import RunFolder
from search import agenda, run
from search.jobs import look
from search.plan import make_plan
from search.pruners import PRUNERS, bracket, make
from tests.search.searches import search_folder
from tests.search.simulated import Trainings, killed_again_and_again, search
from utils import UserError

RATES = [round(0.01 * n, 2) for n in range(1, 28)]


def straight(params, epoch):
    """The greater the rate the better, at every epoch."""
    return params["learning_rate"] * epoch / params["num_epochs"]


def ended(plan):
    """How many trials ended after how many epochs."""
    return Counter(len(json.loads((t.path / "history.json").read_text())["epochs"]) for t in plan.trials)


def folder(tmp_path, pruner, name="x", **changes):
    changes = {"num_epochs": 9} | changes
    settings = {"pruner": pruner} | changes.pop("search", {})
    return search_folder(
        tmp_path / name, changes.pop("hyper_search", {"learning_rate": RATES}), search=settings, **changes
    )


@pytest.mark.parametrize("slots", [1, 4])
def test_asha_pauses_at_each_rung_and_lets_the_best_third_go_on(tmp_path, slots):
    parent = folder(tmp_path, "asha")
    trainings = Trainings(straight)
    plan = search(parent, trainings, slots=slots)
    found = ended(plan)
    assert set(found) == {1, 3, 9}
    assert found[9] + found[3] >= 27 // 3  # a third of all at least; more, as it does not wait for all to come
    assert found[9] >= 3
    assert sum(epochs * number for epochs, number in found.items()) < 0.4 * 27 * 9
    assert look(parent / "learning_rate_0.27").state == "finished"
    assert Counter(look(t.path).state for t in plan.trials) == {"finished": found[9], "pruned": 27 - found[9]}
    assert set(trainings.epochs.values()) == {1}  # none was trained twice: they went on where they had paused
    assert trainings.most == slots


def test_in_the_end_each_rung_lets_as_many_through_as_there_are_thirds(tmp_path):
    plan = search(folder(tmp_path, {"name": "asha", "reduction": 2, "grace": 2}, num_epochs=8), Trainings(straight))
    best = sorted(plan.trials, key=lambda t: -t.combination["learning_rate"])
    reached = {t.name: len(json.loads((t.path / "history.json").read_text())["epochs"]) for t in plan.trials}
    assert set(reached.values()) == {2, 4, 8}
    assert all(reached[t.name] >= 4 for t in best[: 27 // 2])
    assert reached[best[0].name] == 8


def test_a_grid_is_shuffled_so_that_the_first_are_no_worse_than_the_last(tmp_path):
    assert [t.number for t in make_plan(folder(tmp_path, "asha")).trials] == list(range(1, 28))
    rates = [t.combination["learning_rate"] for t in make_plan(folder(tmp_path, "asha")).trials]
    assert sorted(rates) == RATES != rates


@pytest.mark.parametrize(
    ("epochs", "rungs"), [(2, {1}), (8, {1}), (9, {1, 3}), (10, {1, 3}), (20, {2, 6}), (27, {3, 9}), (30, {3, 9})]
)
def test_no_rung_lies_just_before_the_end(tmp_path, epochs, rungs):
    """There it would end all but a third, and save next to nothing."""
    parent = folder(tmp_path, "asha", hyper_search={"learning_rate": RATES[:9]}, num_epochs=epochs)
    assert set(ended(search(parent, Trainings(straight)))) == {*rungs, epochs}


def test_too_few_trials_for_a_third_still_bring_their_best_to_the_end(tmp_path):
    plan = search(folder(tmp_path, "asha", hyper_search={"learning_rate": [0.1, 0.2]}), Trainings(straight))
    assert ended(plan) == {9: 1, 1: 1}
    assert look(plan.parent.path / "learning_rate_0.2").state == "finished"


def test_when_the_promoted_one_fails_the_next_goes_on(tmp_path):
    def falls(params, epoch):
        return float("nan") if params["learning_rate"] == 0.2 and epoch == 4 else straight(params, epoch)

    plan = search(folder(tmp_path, "asha", hyper_search={"learning_rate": [0.1, 0.2]}), Trainings(falls))
    assert [look(plan.parent.path / f"learning_rate_{r}").state for r in (0.1, 0.2)] == ["finished", "failed"]


def test_what_another_process_brought_to_its_rung_counts_as_pruned(tmp_path, monkeypatch):
    monkeypatch.setattr(agenda, "BUSY_SECONDS", 0.0)
    parent = folder(tmp_path, "asha", hyper_search={"learning_rate": [0.1, 0.2]})
    plan = search(parent, Trainings(straight))
    orphan = RunFolder(parent / "learning_rate_0.1")
    orphan.lock()  # its driver was killed when it had come this far
    orphan.set_state("running")
    upcoming = agenda.Agenda(plan, plan.trials)
    assert upcoming.next(()) is None
    orphan.set_state("stopped", reason="signal")
    orphan.unlock()
    assert upcoming.next(()) is None
    assert look(orphan.path).state == "pruned"
    assert not upcoming.left()


def test_what_still_ends_is_not_let_go_on(tmp_path):
    plan = search(folder(tmp_path, "asha", hyper_search={"learning_rate": RATES[:9]}), Trainings(straight))
    pruner = make(make_plan(plan.parent.path))
    low = plan.parent.path / "learning_rate_0.01"
    history = json.loads((low / "history.json").read_text())
    history["epochs"][0]["valid"]["accuracy"] = 1.0
    (low / "history.json").write_text(json.dumps(history))
    assert pruner.promoted((), closed=False).path == low
    assert pruner.promoted({low.name}, closed=False) is None


def test_trials_of_different_length_are_not_compared(tmp_path):
    parent = folder(tmp_path, "asha", hyper_search={"learning_rate": RATES[:9], "num_epochs": [9, 18]})
    plan = search(parent, Trainings(straight))
    by_length = {n: [t for t in plan.trials if t.params["num_epochs"] == n] for n in (9, 18)}
    for length, trials in by_length.items():
        assert look(max(trials, key=lambda t: t.combination["learning_rate"]).path).state == "finished"
        stops = {
            json.loads((t.path / "stop.json").read_text())["epoch"] for t in trials if (t.path / "stop.json").exists()
        }
        assert stops == {length // 9, length // 3}


def test_what_is_no_longer_than_the_grace_never_pauses(tmp_path):
    values = {"learning_rate": [0.1], "num_epochs": [3, 27]}
    plan = make_plan(folder(tmp_path, {"name": "asha", "grace": 3}, hyper_search=values))
    assert {t.params["num_epochs"]: make(plan).limit(t) for t in plan.trials} == {3: None, 27: 3}


@pytest.mark.parametrize("pruner", ["asha", "hyperband", {"name": "median", "startup": 3}])
@pytest.mark.parametrize("every", [3, 7])
def test_whatever_is_killed_nothing_is_trained_twice_and_all_ends_as_if_alone(tmp_path, pruner, every):
    values = {"learning_rate": RATES[:12]}
    trainings = Trainings(straight)
    plan = killed_again_and_again(folder(tmp_path, pruner, hyper_search=values), trainings, every=every)
    assert set(trainings.epochs.values()) == {1}
    alone = search(folder(tmp_path, pruner, "alone", hyper_search=values), Trainings(straight))
    assert {t.name: look(t.path).state for t in plan.trials} == {t.name: look(t.path).state for t in alone.trials}
    assert pruner not in ("asha", "hyperband") or ended(plan) == ended(alone)


def test_hyperband_deals_out_ladders_of_every_length(tmp_path):
    plan = search(folder(tmp_path, "hyperband"), Trainings(straight))
    assert set(ended(plan)) == {1, 3, 9}
    dealt = Counter(bracket(number, 3, 3) for number in range(1, 2 * 17 + 1))
    assert dealt == {0: 18, 1: 10, 2: 6}  # 9, 5 and 3, as for R = 9 in Hyperband's table
    assert {bracket(number, 3, 3) for number in range(1, 7)} == {0, 1, 2}
    straight_through = [t for t in plan.trials if bracket(t.number, 3, 3) == 2]
    assert {look(t.path).state for t in straight_through} == {"finished"}


def test_median_ends_what_has_fallen_behind(tmp_path):
    parent = folder(tmp_path, {"name": "median", "startup": 4, "grace": 3}, hyper_search={"learning_rate": RATES[:12]})
    plan = search(parent, Trainings(straight))
    worse = [t for t in plan.trials if look(t.path).state == "pruned"]
    assert worse
    assert min(ended(plan)) == 4  # after the epoch that ran when it was found to be behind
    assert all(look(t.path).state == "finished" for t in plan.trials[:4])  # nobody to compare with
    seen = []
    for trial in plan.trials:
        rate = trial.combination["learning_rate"]
        behind = len(seen) >= 4 and rate < sorted(seen)[(len(seen) - 1) // 2]
        assert not behind or trial in worse
        seen.append(rate)


def test_median_leaves_the_last_epoch_alone(tmp_path):
    plan = search(folder(tmp_path, {"name": "median", "startup": 1, "grace": 7}), Trainings(straight))
    assert set(ended(plan)) == {8, 9}
    assert {look(t.path).state for t in plan.trials if len(make(plan).curves(t.path)) == 9} == {"finished"}


@pytest.mark.parametrize("asked", [{}, {"epoch": 8}, {"epoch": 5, "by": "median"}])
def test_median_leaves_what_was_asked_to_end(tmp_path, asked):
    settings = {"name": "median", "startup": 1}
    plan = search(folder(tmp_path, settings, hyper_search={"learning_rate": [0.2, 0.3, 0.1]}), Trainings(straight))
    worst = min(plan.trials, key=lambda t: t.combination["learning_rate"])
    history, stop = worst.path / "history.json", worst.path / "stop.json"
    rows = json.loads(history.read_text())["epochs"][:5]
    history.write_text(json.dumps({"epochs": rows}))
    stop.unlink(missing_ok=True)
    make(plan).watch([worst])
    assert json.loads(stop.read_text())["by"] == "median"
    stop.write_text(json.dumps(asked))
    before = stop.stat().st_ino
    make(plan).watch([worst])
    assert (json.loads(stop.read_text()), stop.stat().st_ino) == (asked, before)


def test_a_smaller_loss_is_better(tmp_path):
    plan = search(folder(tmp_path, "asha", search={"metric": "loss"}), Trainings(lambda p, e: -straight(p, e)))
    assert look(plan.parent.path / "learning_rate_0.01").state == "finished"
    assert look(plan.parent.path / "learning_rate_0.27").state == "pruned"


def test_what_a_person_stopped_stays_so(tmp_path):
    parent = folder(tmp_path, "asha", hyper_search={"learning_rate": [0.1, 0.2, 0.3]})
    trainings = Trainings(straight)
    search(parent, trainings)
    (parent / "learning_rate_0.1" / "stop.json").write_text("{}")
    search(parent, trainings, "search.pruner=null")
    assert json.loads((parent / "learning_rate_0.1" / "stop.json").read_text()) == {}
    assert look(parent / "learning_rate_0.1").state == "pruned"


def test_more_trials_may_raise_one_that_was_pruned(tmp_path):
    parent = folder(tmp_path, "asha", hyper_search={"learning_rate": [0.3, 0.29, 0.01]})
    search(parent, Trainings(straight))
    assert look(parent / "learning_rate_0.29").state == "pruned"
    folder(tmp_path, "asha", hyper_search={"learning_rate": [0.3, 0.29, 0.01, 0.02, 0.03, 0.04]})
    trainings = Trainings(straight)
    search(parent, trainings, extend=True)
    assert trainings.epochs["learning_rate_0.29", 2] == 1
    assert ("learning_rate_0.29", 1) not in trainings.epochs


def test_hyperbands_ladders_stay_when_the_search_is_extended(tmp_path):
    space = {"learning_rate": RATES[3:]}
    plan = search(folder(tmp_path, "hyperband", hyper_search=space), Trainings(straight))
    before = ended(plan)
    more = search(folder(tmp_path, "hyperband"), trainings := Trainings(straight), extend=True)
    assert {look(t.path).state for t in more.trials} == {"finished", "pruned"}
    assert set(trainings.epochs.values()) == {1}
    assert not [name for name, epoch in trainings.epochs if epoch == 1 and float(name.partition("_rate_")[2]) > 0.03]
    assert all(ended(more)[epochs] >= number for epochs, number in before.items() if epochs == 9)


def test_a_pruner_that_could_judge_nothing_is_refused(tmp_path):
    for pruner in ("asha", {"name": "median", "grace": 4}):
        with pytest.raises(UserError, match="judges nothing: no trial lasts longer than its grace"):
            make(make_plan(folder(tmp_path, pruner, num_epochs=1 if pruner == "asha" else 5)))


def test_the_longest_trial_to_come_is_long_enough(tmp_path):
    space = {"learning_rate": {"low": 0.01, "high": 0.1}}
    adaptive = {"num_epochs": 1, "search": {"method": "cmaes", "trials": 4}}
    for epochs in ([9, 27], {"low": 1, "high": 27, "int": True}):
        parent = folder(tmp_path, "asha", hyper_search=space | {"num_epochs": epochs}, **adaptive)
        assert make(make_plan(parent)).name == "asha"
    with pytest.raises(UserError, match="judges nothing"):
        make(make_plan(folder(tmp_path, "asha", hyper_search=space | {"num_epochs": [1]}, **adaptive)))


def test_a_pruner_that_could_judge_nothing_is_refused_before_a_folder_is_made(tmp_path):
    parent = folder(tmp_path, "asha", num_epochs=1)
    with pytest.raises(UserError, match="judges nothing"):
        run.run(parent, tmp_path, [], run.Options([{}]))
    assert [path.name for path in parent.iterdir() if path.is_dir()] == []


def test_every_pruner_of_the_schema_is_there():
    assert set(PRUNERS) == set(Pruner.model_fields["name"].annotation.__args__)


def test_no_pruner(tmp_path):
    assert make(make_plan(search_folder(tmp_path / "x", {"learning_rate": RATES}))) is None


@pytest.mark.parametrize(("keep", "left"), [("all", 27), ("best", 1), ("top3", 3), ("none", 0)])
def test_whose_weights_stay(tmp_path, keep, left):
    plan = search(folder(tmp_path, "asha"), Trainings(straight), f"search.keep_weights={keep}")
    kept = [t for t in plan.trials if (t.path / "weights_best.safetensors").exists()]
    assert len(kept) == left
    best = sorted(plan.trials, key=lambda t: -t.combination["learning_rate"])
    assert left == 27 or {t.name for t in kept} == {t.name for t in best[:left]}
