"""What is proposed given how the earlier combinations went, and searches that live by it."""

import json
import math
import statistics
import subprocess
import sys
from collections import Counter

import pytest

import include
from config.parts import Search
from config.space import belongs, read_axes
from search import agenda, samplers
from search.agenda import tried
from search.jobs import look
from search.layout import add, lay_out
from search.plan import make_plan
from search.samplers import SAMPLERS, Tried, propose
from tests.search.searches import search_folder
from tests.search.simulated import Trainings, killed_again_and_again, search
from utils import UserError

BASE = {"arch": "conv", "learning_rate": 0.1, "ps": 0.5, "batch_size": 8, "wd": 0.0, "layer_groups": 1}
SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "ps": {"low": 0.0, "high": 0.8, "step": 0.2},
    "arch,wd": [["conv", 0.0], ["deep", 0.1]],
    "batch_size": {"low": 4, "high": 64, "int": True, "when": {"arch": ["deep"]}},
}
NUMBERS = {"learning_rate": SPACE["learning_rate"], "ps": {"low": 0.0, "high": 0.9}}


def axes_of(space):
    return read_axes(BASE | {"hyper_search": space}, "x", grid=False)


def quality(combination):
    """Best at a rate of 0.01, ps 0.4 and the deep net."""
    rate, ps = combination["learning_rate"], combination.get("ps", 0.4)
    return 1 - 0.2 * (math.log10(rate) + 2) ** 2 - (ps - 0.4) ** 2 + 0.3 * (combination.get("arch") == "deep")


def run(method, number, space=SPACE, seed=0):
    """So many proposals, each told before the next."""
    found = []
    for _ in range(number):
        combination = propose(axes_of(space), BASE, Search(method=method, seed=seed), found)
        found.append(Tried(combination, "finished", quality(combination)))
    return [one.combination for one in found]


def distances(combinations):
    return [abs(math.log10(c["learning_rate"]) + 2) + abs(c["ps"] - 0.4) for c in combinations]


@pytest.mark.parametrize(("method", "number"), [("tpe", 25), ("gp", 13), ("cmaes", 25)])
def test_proposals_belong_to_the_search_are_distinct_and_follow_from_the_seed(method, number):
    found = run(method, number)
    axes = axes_of(SPACE)
    assert all(belongs(combination, axes, BASE) for combination in found)
    assert len({json.dumps(combination) for combination in found}) == number
    assert all(("batch_size" in c) == (c["arch"] == "deep") == (c["wd"] == 0.1) for c in found)
    assert run(method, number) == found
    assert run(method, 12, seed=1) != found[:12]


@pytest.mark.parametrize(("method", "number"), [("tpe", 40), ("gp", 16), ("cmaes", 40)])
def test_later_proposals_are_nearer_the_best_than_early_ones(method, number):
    found = distances(run(method, number, NUMBERS))
    assert statistics.median(found[number // 2 :]) < 0.75 * statistics.median(found[:8])


def test_the_first_are_spread_evenly():
    rates = sorted(c["learning_rate"] for c in run("tpe", 8, NUMBERS))
    assert [int((math.log10(rate) + 4) / 3 * 8) for rate in rates] == list(range(8))


@pytest.mark.parametrize("method", ["tpe", "gp"])
def test_what_runs_is_not_proposed_beside_itself(method):
    seen = [Tried(c, "finished", quality(c)) for c in run(method, 12, NUMBERS)]
    beside = []
    for _ in range(3):
        beside.append(
            propose(axes_of(NUMBERS), BASE, Search(method=method), [*seen, *(Tried(c, "running") for c in beside)])
        )
    assert len({c["learning_rate"] for c in beside}) == 3


def test_values_that_make_trials_fail_are_left_alone_and_other_faults_say_nothing():
    def told(state):
        found = []
        for _ in range(30):
            c = propose(axes_of(NUMBERS), BASE, Search(method="tpe"), found)
            fails = c["learning_rate"] > 0.003
            found.append(Tried(c, state, math.nan) if fails else Tried(c, "finished", 0.5 + c["ps"] / 100))
        return sum(one.combination["learning_rate"] > 0.003 for one in found[10:])

    assert told("poor") <= 4 < told("failed")


def test_pruned_ones_teach_too():
    def proposed(state):
        seen = [Tried(c, "finished", quality(c)) for c in run("tpe", 12, NUMBERS)]
        seen += [Tried({"learning_rate": 0.01, "ps": round(0.3 + n / 100, 2)}, state, 0.01, 1) for n in range(12)]
        return propose(axes_of(NUMBERS), BASE, Search(method="tpe"), seen)

    assert proposed("pruned") != proposed("failed")
    seen = [Tried(c, "pruned", quality(c), 1) for c in run("gp", 12, NUMBERS)]
    assert propose(axes_of(NUMBERS), BASE, Search(method="gp"), seen) == propose(
        axes_of(NUMBERS), BASE, Search(method="gp"), [Tried(one.combination, "finished", one.value) for one in seen]
    )


@pytest.mark.parametrize("method", SAMPLERS)
def test_a_small_space_ends(method):
    space = {"learning_rate": [0.1, 0.01, 0.001], "ps": [0.1, 0.5], "arch": ["conv", "deep"]}
    axes, found = axes_of(space), []
    while (combination := propose(axes, BASE, Search(method=method), found)) is not None:
        found.append(Tried(combination, "finished", quality(combination)))
    assert len(found) == 12


def test_cmaes_tells_whole_generations_and_counts_what_runs_as_their_worst():
    seen = [Tried(c, "finished", quality(c)) for c in run("cmaes", 12, NUMBERS)]
    axes, settings = axes_of(NUMBERS), Search(method="cmaes")
    worst = min(seen[:6], key=lambda one: one.value)
    as_running = [Tried(t.combination, "running") if t is worst else t for t in seen]
    second = sorted(one.value for one in seen[:6])[1]
    as_second = [Tried(t.combination, "finished", second) if t is worst else t for t in seen]
    assert propose(axes, BASE, settings, as_running) == propose(axes, BASE, settings, as_second)
    unfinished = [*seen[:6], *(Tried(t.combination, "running") for t in seen[6:])]
    assert propose(axes, BASE, settings, unfinished) is not None


def test_cmaes_begins_anew_when_it_has_converged():
    same = [Tried({"learning_rate": 0.01, "ps": 0.4}, "finished", 1.0)] * 600
    combination = propose(axes_of(NUMBERS), BASE, Search(method="cmaes"), same)
    assert belongs(combination, axes_of(NUMBERS), BASE)


def test_what_a_method_cannot_do_is_told_in_a_line(tmp_path, monkeypatch):
    one = search_folder(tmp_path / "x", {"learning_rate": NUMBERS["learning_rate"]}, search={"method": "cmaes"})
    with pytest.raises(UserError, match="cmaes needs two parameters with numbers"):
        make_plan(one)
    for package, method in (("optuna", "tpe"), ("optuna", "gp"), ("cmaes", "cmaes")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=f"{package} is not installed: pip install '{package}'"):
            make_plan(search_folder(tmp_path / method, NUMBERS, search={"method": method}))


def test_a_wrong_value_is_told_before_anything_is_made(tmp_path):
    space = {"arch": ["conv", "deep"], "ps": {"low": 0.5, "high": 2.0, "when": {"arch": ["deep"]}}}
    with pytest.raises(UserError, match="ps is 2"):
        make_plan(search_folder(tmp_path / "x", space, search={"method": "tpe"}))


# --- searches --------------------------------------------------------------------------------------------------------


def hump(params, epoch):
    return quality(params) * epoch / params["num_epochs"]


def folder(tmp_path, name="x", space=NUMBERS, **settings):
    return search_folder(tmp_path / name, space, num_epochs=3, search={"method": "tpe", "trials": 14} | settings)


def combinations(plan):
    return [trial.combination for trial in plan.trials]


@pytest.mark.parametrize("method", SAMPLERS)
def test_a_search_proposes_as_many_as_asked_for(tmp_path, method):
    trainings = Trainings(hump)
    plan = search(folder(tmp_path, method=method), trainings)
    assert len(plan.trials) == plan.total == 14
    assert {look(trial.path).state for trial in plan.trials} == {"finished"}
    assert trainings.order == [trial.name for trial in plan.trials]
    assert combinations(make_plan(plan.parent.path)) == combinations(plan)
    assert {c["learning_rate"] for c in trainings.checked} >= {0.0001, 0.1}  # before the first was proposed
    again = Trainings(hump)
    search(plan.parent.path, again)
    assert again.order == []


def test_the_next_is_proposed_when_a_slot_is_free(tmp_path):
    trainings = Trainings(hump)
    trainings.kill_in = 4  # each takes three epochs
    with pytest.raises(BaseException, match=r"^$"):
        search(folder(tmp_path), trainings, slots=3)
    assert len(make_plan(tmp_path / "x").trials) == 6
    assert trainings.most == 3


@pytest.mark.parametrize("every", [2, 4])
def test_a_killed_driver_proposes_what_it_would_have(tmp_path, every):
    trainings = Trainings(hump)
    plan = killed_again_and_again(folder(tmp_path), trainings, every=every)
    assert combinations(plan) == combinations(search(folder(tmp_path, "alone"), Trainings(hump)))
    assert set(trainings.epochs.values()) == {1}


@pytest.mark.parametrize("slots", [1, 3])
def test_tpe_with_asha_whatever_is_killed(tmp_path, slots):
    parent = search_folder(
        tmp_path / "x", NUMBERS, num_epochs=9, search={"method": "tpe", "trials": 14, "pruner": "asha"}
    )
    trainings = Trainings(hump)
    plan = killed_again_and_again(parent, trainings, every=5, slots=slots)
    states = Counter(look(trial.path).state for trial in plan.trials)
    assert set(states) == {"finished", "pruned"}
    assert states.total() == 14
    assert set(trainings.epochs.values()) == {1}
    assert sum(trainings.epochs.values()) < 0.5 * 14 * 9


def test_killed_between_the_folder_and_the_start_of_a_trial(tmp_path, monkeypatch):
    parent = folder(tmp_path, seeds=2, trials=3)
    plan = make_plan(parent)
    lay_out(plan)
    first = propose(plan.axes, plan.base, plan.settings, [])
    add(plan, first)
    for file in (plan.trials[1].path / "params.json", plan.trials[1].path / "status.json"):
        file.unlink()  # of two seeds the second folder was not whole
    trainings = Trainings(hump)
    ended = search(parent, trainings)
    assert combinations(ended)[:2] == [first, first]
    assert [trial.seed for trial in ended.trials] == [1, 2] * 3
    assert set(trainings.epochs.values()) == {1}
    assert sum(trainings.epochs.values()) == 6 * 3


def test_a_half_made_folder_of_what_is_no_longer_proposed_goes(tmp_path):
    parent = folder(tmp_path, trials=2)
    left = parent / "learning_rate_0.5-ps_0.5"
    left.mkdir()
    (left / "search.json").write_text("{}")
    search(parent, Trainings(hump))
    assert not left.exists()


def test_a_combination_is_worth_the_mean_of_its_seeds(tmp_path):
    parent = folder(tmp_path, seeds=2, trials=2)
    plan = search(parent, Trainings(lambda params, epoch: 0.5 + 0.1 * params["seed"]))
    assert [one.value for one in tried(plan)] == pytest.approx([0.55, 0.55])
    assert {one.state for one in tried(plan)} == {"finished"}


def test_how_trials_went(tmp_path):
    def fate(params, epoch):
        return math.nan if params["learning_rate"] > 0.01 else hump(params, epoch)

    plan = search(folder(tmp_path, trials=8), Trainings(fate))
    found = {one.combination["learning_rate"]: one.state for one in tried(plan)}
    assert {state for rate, state in found.items() if rate > 0.01} == {"poor"}
    assert {state for rate, state in found.items() if rate <= 0.01} == {"finished"}
    low = search(folder(tmp_path, "y", trials=3, metric="loss"), Trainings(hump))
    assert [one.value for one in tried(low)] == pytest.approx([hump(t.params, 3) - 1 for t in low.trials])


def test_more_trials_need_extend_and_fewer_are_refused(tmp_path):
    parent = folder(tmp_path, trials=4)
    first = search(parent, Trainings(hump))
    with pytest.raises(UserError, match=r"3 combinations would come to a search .* --extend adds them"):
        search(parent, Trainings(hump), "search.trials=7")
    trainings = Trainings(hump)
    trainings.kill_in = 4
    with pytest.raises(BaseException, match=r"^$"):
        search(parent, trainings, "search.trials=7", extend=True)
    more = search(parent, trainings := Trainings(hump), "search.trials=7")  # it goes on without being asked again
    assert combinations(more)[:4] == combinations(first)
    assert len(more.trials) == 7
    with pytest.raises(UserError, match="would no longer be part of the search"):
        search(parent, Trainings(hump), "search.trials=3")


def test_what_random_tried_is_known_to_tpe(tmp_path):
    parent = folder(tmp_path, method="random", trials=12)
    drawn = search(parent, Trainings(hump))
    plan = search(parent, trainings := Trainings(hump), "search.method=tpe", "search.trials=14", extend=True)
    assert combinations(plan)[:12] == combinations(drawn)
    assert len(trainings.order) == 2


def test_a_search_without_results_falls_back_on_chance(tmp_path, monkeypatch):
    monkeypatch.setattr(samplers, "MOST_ASKED", 0)
    monkeypatch.setattr(samplers, "FIRST", 0)
    plan = search(folder(tmp_path, trials=3, space={"ps": [0.1, 0.2]}), Trainings(lambda params, epoch: params["ps"]))
    assert sorted(trial.name for trial in plan.trials) == ["ps_0.1", "ps_0.2"]  # there is no third
    assert agenda.Agenda(plan, plan.trials).left()  # it may be asked again, and finds none again


@pytest.mark.parametrize("method", ["tpe", "cmaes"])
def test_proposing_needs_no_torch(method):
    code = f"""
import sys
from tests.search import test_samplers
test_samplers.run({method!r}, 12, test_samplers.NUMBERS)
assert {{"tpe": "optuna", "cmaes": "cmaes"}}[{method!r}] in sys.modules
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=include.ROOT, check=True)
