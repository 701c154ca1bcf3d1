"""The engine's rules, with trainings that only leave in the folder what a training would."""

import json
import signal
from collections import Counter, deque
from pathlib import Path

import pytest

from config.run_folder import RunFolder
from search import agenda, engine, jobs, run
from search.jobs import look
from search.launchers import Ended, LauncherLost
from search.plan import about
from tests.search import simulated
from tests.search.searches import search_folder
from utils import BusyError, Interrupted, UserError

RATES = [0.1, 0.01, 0.001, 0.0001]
NAMES = [f"learning_rate_{rate}" for rate in ("0.1", "0.01", "0.001", "0.0001")]


class Trainings:
    """A server whose trainings end at once, each as its script says: finish by default.

    Attributes:
        script: for each name what its next trainings do; a name that is missing finishes.
        started: the names, in order.
        most: the largest number that ran at the same time.
    """

    def __init__(self):
        self.script: dict[str, list[str]] = {}
        self.started: list[str] = []
        self.signals: list[int] = []
        self.most = 0
        self.problems: list[str] = []
        self.running: deque[Ended] = deque()
        self.on_wait = lambda: None

    remedy = "--spawn"

    def __call__(self, threads, spawn):
        self.running.clear()
        return self

    def wrong(self, params, combinations):
        return self.problems

    def held(self):
        return ()

    def kill(self):
        pass

    def signal(self, number):
        self.signals.append(number)

    def close(self):
        pass

    def train(self, name, arguments, environment):
        self.started.append(name)
        folder = RunFolder(Path(arguments[arguments.index("--model_dir") + 1]))
        does = self.script[name].pop(0) if self.script.get(name) else "finish"
        code, errors, oom = 0, "", does == "exceed memory"
        if does == "finish":
            folder.set_state("finished")
            value = json.loads(folder.params.read_text())["learning_rate"]
            for file, content in (
                ("metrics_val_best_weights.json", {"accuracy": value}),
                ("weights_best.safetensors", 0),
            ):
                folder.write_json(file, content)
        elif does in ("kill", "terminate", "get further"):
            folder.set_state("running")
            code = 143 if does == "terminate" else -9
            if does == "get further":
                folder.write("checkpoint.pt", str(len(self.started)).encode())
        elif oom:
            folder.set_state("running")
            code, errors = -9, "too much memory"
        elif does == "refuse":
            code, errors = 2, "params.json: wrong\nand more\n"
        elif does == "crash":
            code, errors = 1, "Traceback\nImportError: no torch\n"
        elif does == "lose server":
            folder.set_state("running")
            code = 999
        else:
            reason, _, message = does.partition(":")
            folder.set_state("failed", reason=reason, message=message or name)
            code = 4
        self.running.append(Ended(name, code, errors, oom=oom))
        self.most = max(self.most, len(self.running))

    def wait(self, seconds):
        self.on_wait()
        if self.running and self.running[0].code == 999:
            raise LauncherLost("the server is gone")
        return [self.running.popleft()] if self.running else []


@pytest.fixture
def trainings(monkeypatch):
    fake = Trainings()
    monkeypatch.setattr(run, "Server", fake)
    monkeypatch.setattr(agenda, "BUSY_SECONDS", 0.0)
    monkeypatch.setattr(run, "_write_tables", lambda plan: plan.parent.file("results.md").write_text("x"))
    return fake


@pytest.fixture
def parent(tmp_path):
    return search_folder(tmp_path / "x", {"learning_rate": RATES})


def search(parent, *overrides, slots=2, **options):
    return run.run(parent, parent.parent, overrides, run.Options([{}] * slots, **options))


def states(parent):
    return [look(parent / name).state for name in NAMES]


def test_every_trial_once_and_no_more_than_the_slots_at_a_time(trainings, parent):
    assert search(parent) == 0
    assert trainings.started == NAMES
    assert trainings.most == 2
    assert states(parent) == ["finished"] * 4
    assert (parent / "results.md").exists()
    assert search(parent) == 0
    assert trainings.started == NAMES


def test_a_fault_of_all_trials_is_put_right_and_the_failed_ones_go_on(trainings, parent):
    trainings.script = {name: ["oom:too large"] for name in NAMES[:3]}
    with pytest.raises(UserError, match="the first 3 trials all failed: too large; put it right, then --retry_failed"):
        search(parent, slots=1)
    search_folder(parent, {"learning_rate": RATES}, batch_size=2)
    assert search(parent, retry_failed=True) == 0
    assert states(parent) == ["finished"] * 4
    assert {json.loads((parent / name / "params.json").read_text())["batch_size"] for name in NAMES} == {2}


def test_retries_are_counted_in_the_folder(trainings, parent):
    trainings.script = {NAMES[1]: ["error"] * 9, NAMES[2]: ["oom"], NAMES[3]: ["error", "finish"]}
    assert search(parent) == 1
    assert Counter(trainings.started) == {NAMES[0]: 1, NAMES[1]: 2, NAMES[2]: 1, NAMES[3]: 2}
    assert states(parent) == ["finished", "failed", "failed", "finished"]
    assert about(parent / NAMES[1])["retried"] == 1
    assert search(parent) == 1
    assert len(trainings.started) == 6
    assert search(parent, "search.retries=2") == 1
    assert trainings.started[6:] == [NAMES[1]]
    trainings.script = {}
    assert search(parent, retry_failed=True) == 0
    assert states(parent) == ["finished"] * 4


def test_a_killed_trial_goes_on_and_that_is_no_retry(trainings, parent):
    trainings.script = {NAMES[0]: ["kill"] * 5, NAMES[1]: ["get further"] * 30}
    assert search(parent, "search.retries=0") == 0
    assert Counter(trainings.started) == {NAMES[0]: 6, NAMES[1]: 31, NAMES[2]: 1, NAMES[3]: 1}


@pytest.mark.parametrize(("way", "number"), [("kill", 9), ("terminate", 15)])
def test_a_trial_that_is_killed_in_vain_fails_in_the_end(trainings, parent, way, number):
    trainings.script = {NAMES[0]: [way] * 1000}
    assert search(parent, "search.retries=0") == 1
    assert trainings.started.count(NAMES[0]) == engine.MOST_IN_VAIN
    assert f"killed 10 times by signal {number} without" in look(parent / NAMES[0]).message


def test_a_trial_that_a_cluster_ended_for_its_memory_is_not_tried_again(trainings, parent):
    trainings.script = {NAMES[0]: ["exceed memory"] * 9}
    assert search(parent) == 1
    assert sorted(trainings.started) == sorted(NAMES)
    assert look(parent / NAMES[0]) == ("failed", "oom", "too much memory")


def test_what_train_py_could_not_note_is_noted(trainings, parent):
    trainings.script = {NAMES[0]: ["refuse"], NAMES[1]: ["crash", "crash"]}
    assert search(parent) == 1
    assert look(parent / NAMES[0]) == ("failed", "invalid", "params.json: wrong")
    assert look(parent / NAMES[1]) == ("failed", "error", "ImportError: no torch")


def test_the_first_three_failing_alike_stop_the_search(trainings, parent):
    trainings.script = {name: ["error:disk full in " + name] * 9 for name in NAMES}
    with pytest.raises(UserError, match="the first 3 trials all failed: disk full"):
        search(parent, slots=1)
    assert trainings.started == NAMES[:3]
    assert (parent / "results.md").exists()
    trainings.script, trainings.started = {}, []
    assert search(parent, slots=1) == 0  # put right; one retry was left
    assert sorted(trainings.started) == sorted(NAMES)


def test_different_failures_do_not(trainings, parent):
    trainings.script = {name: [f"oom:{number}"] for number, name in enumerate(NAMES)}
    assert search(parent) == 1
    assert states(parent) == ["failed"] * 4


def test_a_trial_that_another_process_trains_is_waited_for(trainings, parent):
    search_again = run.make_plan(parent)
    run.lay_out(search_again)
    other = RunFolder(parent / NAMES[0])
    other.lock()
    waits = []

    def wait():
        waits.append(states(parent)[0])
        if len(waits) == 6:
            other.unlock()

    trainings.on_wait = wait
    assert search(parent) == 0
    assert waits[0] == "running"
    assert trainings.started == [*NAMES[1:], NAMES[0]]


def test_one_search_at_a_time(trainings, parent):
    first = RunFolder(parent)
    first.lock()
    with pytest.raises(BusyError):
        search(parent)
    first.unlock()
    assert search(parent) == 0


def test_a_lost_server_is_started_anew_but_not_for_ever(trainings, parent):
    trainings.script = {NAMES[0]: ["lose server"] * 2}
    assert search(parent, slots=1) == 0
    assert states(parent) == ["finished"] * 4
    more = search_folder(parent.parent / "y", {"learning_rate": [0.1]})
    trainings.script = {NAMES[0]: ["lose server"] * 100}
    with pytest.raises(UserError, match="--spawn"):
        search(more)


def test_a_numberstops_the_trials_and_starts_no_more(trainings, parent):
    trainings.on_wait = lambda: signal.raise_signal(signal.SIGTERM) if not trainings.signals else None
    trainings.script = {NAMES[0]: ["kill"]}
    with pytest.raises(Interrupted, match="the same command goes on") as caught:
        search(parent)
    assert caught.value.exit_code == 143
    assert trainings.signals == [signal.SIGTERM]
    assert states(parent) == ["lost", "finished", "queued", "queued"]
    assert (parent / "results.md").exists()
    trainings.on_wait = lambda: None
    assert search(parent) == 0
    assert trainings.started == [NAMES[0], NAMES[1], NAMES[0], NAMES[2], NAMES[3]]


def test_no_hours_left(trainings, parent):
    assert search(parent, "search.hours=0.0000000001") == 0
    assert trainings.started == []


def test_a_name_that_only_torch_knows_to_be_wrong(trainings, parent):
    trainings.problems = ["hyper_search: arch is unknown"]
    with pytest.raises(UserError, match="arch is unknown"):
        search(parent)
    assert trainings.started == []


def test_a_trial_that_was_asked_to_stop_stays_stopped(trainings, parent):
    run.lay_out(run.make_plan(parent))
    RunFolder(parent / NAMES[0]).set_state("stopped")
    (parent / NAMES[0] / "stop.json").write_text("{}")
    RunFolder(parent / NAMES[1]).set_state("stopped", reason="signal")
    assert search(parent) == 0
    assert trainings.started == NAMES[1:]


@pytest.mark.parametrize(("keep", "left"), [("all", NAMES), ("best", NAMES[:1]), ("top3", NAMES[:3]), ("none", [])])
def test_whose_weights_stay(trainings, parent, keep, left):
    assert search(parent, f"search.keep_weights={keep}", slots=1) == 0
    assert [name for name in NAMES if (parent / name / "weights_best.safetensors").exists()] == left


def weights_of(parent):
    return sorted(path.parent.name for path in parent.glob("*/weights_best.safetensors"))


@pytest.mark.parametrize(("keep", "kept"), [("best", [0.01]), ("top3", [0.01, 0.001, 0.1]), ("none", [])])
def test_weights_stay_of_what_is_best_in_the_mean_over_seeds(tmp_path, monkeypatch, keep, kept):
    dropped = Counter()
    monkeypatch.setattr(jobs, "drop_weights", lambda path, drop=jobs.drop_weights: (dropped.update([path]), drop(path)))
    accuracy = {0.1: (0.9, 0.1), 0.01: (0.8, 0.7), 0.001: (0.6, 0.6), 0.0001: (0.2, 0.2)}
    parent = search_folder(tmp_path / "x", {"learning_rate": RATES}, search={"seeds": 2, "keep_weights": keep})
    simulated.search(parent, simulated.Trainings(lambda params, _: accuracy[params["learning_rate"]][params["seed"]]))
    names = [f"learning_rate_{rate}" for rate in kept]
    assert weights_of(parent) == sorted([*names, *(f"{name}-seed_2" for name in names)])
    assert set(dropped.values()) == {1}


@pytest.mark.parametrize("keep", ["best", "none"])
def test_the_weights_of_a_confirmation_stay_unless_none_do(trainings, parent, keep):
    for seeds in (None, 3, None):
        assert search(parent, f"search.keep_weights={keep}", confirm=seeds) == 0
    confirmed = [NAMES[0], f"{NAMES[0]}-seed_2", f"{NAMES[0]}-seed_3"]
    assert weights_of(parent) == (confirmed if keep == "best" else [])


def test_confirmation(trainings, parent):
    with pytest.raises(UserError, match="no trial has finished yet"):
        search(parent, confirm=3)
    assert search(parent) == 0
    assert search(parent, confirm=3) == 0
    assert trainings.started[4:] == [f"{NAMES[0]}-seed_2", f"{NAMES[0]}-seed_3"]
    assert about(parent / f"{NAMES[0]}-seed_3")["confirm"]
    assert search(parent) == 0  # they are no part of the search, and no obstacle
    assert len(trainings.started) == 6


def test_missing_data(trainings, parent):
    with pytest.raises(UserError, match="no such folder"):
        run.run(parent, parent / "nowhere", [], run.Options([{}]))
