"""Trainings as jobs of a real Slurm of one machine: munged, slurmctld and slurmd of the tests' own."""

import contextlib
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import include
from search import slurm as engine
from search import slurm_commands
from search.launchers import Ended
from search.plan import make_plan
from search.slurm import Slurm
from search.slurm_commands import Task
from tests.search.searches import search_folder
from tests.search.slurm_cluster import LONGEST_ARRAY
from tests.search.stand_in import EPOCHS
from tests.search.waiting import epochs, states, times_finished, wait_for
from tests.training.runs import outcome
from utils import UserError

pytestmark = pytest.mark.slow
SECONDS = 120.0


@pytest.fixture
def slurm_here(slurm, monkeypatch):
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm[name])


@pytest.fixture
def parent(slurm_here, stand_in_root, tmp_path, monkeypatch):
    """A search's folder, in whose trials nothing is trained but a stand-in."""
    monkeypatch.setattr(include, "ROOT", stand_in_root)
    monkeypatch.setattr(engine, "POLL_SECONDS", 0.5)
    (tmp_path / "a 100% search").mkdir()
    yield tmp_path / "a 100% search"
    scancel("--user=root")
    wait_for(lambda: not queue())


@pytest.fixture
def endless(stand_in_root):
    """The stand-in takes ten minutes."""
    train = stand_in_root / "train.py"
    train.write_text(train.read_text().replace(f"EPOCHS = {EPOCHS}", "EPOCHS = 6000"))
    assert "6000" in train.read_text()


def begin(launcher, parent, names):
    for name in names:
        folder = parent / name
        folder.mkdir(exist_ok=True)
        (folder / "params.json").write_text('{"num_epochs": 1}')
        launcher.train(name, ["--data_dir", "d", "--model_dir", str(folder)], {})


def ends(launcher, number):
    """Waits for so many trainings to end."""
    found, deadline = {}, time.monotonic() + SECONDS
    while len(found) < number:
        assert time.monotonic() < deadline, f"only {found} ended"
        found |= {ended.name: ended for ended in launcher.wait(0.1)}
    return found


def queue(form="%K"):
    """Of the tasks that are not over."""
    return subprocess.run(["squeue", "-h", "--array", "-o", form], capture_output=True, text=True).stdout.split()


def submitted():
    """The names of all jobs that Slurm remembers."""
    rows = subprocess.run(["squeue", "-h", "--states=all", "-o", "%j"], capture_output=True, text=True)
    return set(rows.stdout.split())


def scancel(*arguments):
    subprocess.run(["scancel", *arguments], check=True)


def test_so_many_at_a_time_and_what_a_person_adds(parent):
    launcher = Slurm(parent, jobs=2, sbatch="--comment='for tests'")
    begin(launcher, parent, "abcd")
    assert launcher.wait(0) == []
    assert queue("%k") == ["for", "tests"] * 4
    most, found = 0, {}
    while len(found) < 4:
        most = max(most, states(parent, "abcd").count("r"))
        found |= {ended.name: ended for ended in launcher.wait(0.1)}
    assert most == 2
    assert {(ended.code, ended.errors) for ended in found.values()} == {(0, "")}
    assert times_finished(parent, "abcd") == ["once\n"] * 4
    launcher.wait(0)
    launcher.close()
    assert not (parent / "slurm").exists()


def test_arrays_are_split_where_slurm_wants_them_to(parent):
    names = "abcdefghijkl"
    launcher = Slurm(parent)
    begin(launcher, parent, names)
    launcher.wait(0)
    jobs = queue("%F")
    assert sorted(map(jobs.count, set(jobs))) == [len(names) - LONGEST_ARRAY, LONGEST_ARRAY]
    ends(launcher, len(names))
    assert times_finished(parent, names) == ["once\n"] * len(names)


def test_packs_cores_and_gpus(parent):
    launcher = Slurm(parent, pack=3, cpus=2, gpus=1)
    begin(launcher, parent, "abcde")
    launcher.wait(0)
    assert queue("%K|%C|%b") == ["0|2|gres:gpu:1", "1|2|gres:gpu:1"]
    found = ends(launcher, 5)
    assert list(found)[:2] != ["a", "b"]
    assert [found[name].code for name in "abcde"] == [0] * 5


def test_the_next_process_takes_over_what_is_in_the_queue(parent):
    first = Slurm(parent, jobs=2)
    begin(first, parent, "abcdef")
    first.wait(0)
    wait_for(lambda: "r" in states(parent, "abcdef"))
    second = Slurm(parent, jobs=2)
    assert sorted(second.held()) == list("abcdef")
    before = queue("%F")
    begin(second, parent, "abcdefg")
    assert not second.held()
    second.wait(0)
    assert set(queue("%F")) == set(before)  # g has to wait for a place
    ends(second, 7)
    assert times_finished(parent, "abcdefg") == ["once\n"] * 7


def test_asked_to_stop_they_save_and_what_waits_never_begins(parent, endless):
    first = Slurm(parent, jobs=2)
    begin(first, parent, "abcd")
    first.wait(0)
    wait_for(lambda: epochs(parent, "a") and epochs(parent, "b"))
    begin(first, parent, "e")
    first.signal(signal.SIGTERM)
    found = ends(first, 5)
    assert {ended.code for ended in found.values()} == {-signal.SIGTERM}
    assert states(parent, "abcde") == "ss---"
    assert not queue()
    first.close()
    second = Slurm(parent)
    assert not second.held()
    before = epochs(parent, "a")
    begin(second, parent, "a")
    second.wait(0)
    wait_for(lambda: epochs(parent, "a") > before + 1)
    second.kill()
    wait_for(lambda: not queue())


def test_cancelled_by_a_person(parent, endless):
    first = Slurm(parent, jobs=1)
    begin(first, parent, "ab")
    first.wait(0)
    wait_for(lambda: epochs(parent, "a"))
    scancel(first._batches[0].job)
    wait_for(lambda: states(parent, "a") == "s")
    found = ends(first, 2)
    assert all(ended.cancelled for ended in found.values())


def test_cancelled_just_before_the_next_process_comes(parent, stand_in_root, endless):
    """What is still on its way out then is no wish of a person that watches the new one."""
    train = stand_in_root / "train.py"
    train.write_text(train.read_text().replace("except Interrupted:", "except Interrupted:\n            time.sleep(3)"))
    first = Slurm(parent)
    begin(first, parent, "a")
    first.wait(0)
    wait_for(lambda: epochs(parent, "a"))
    scancel(first._batches[0].job)
    wait_for(lambda: queue("%T") == ["COMPLETING"])
    second = Slurm(parent)
    assert list(second.held()) == ["a"]
    begin(second, parent, "a")
    assert not ends(second, 1)["a"].cancelled
    assert states(parent, "a") == "s"


def test_put_back_into_the_queue_it_goes_on(parent, endless):
    """As Slurm does when it needs the node for somebody else, or loses it."""
    launcher = Slurm(parent)
    begin(launcher, parent, "a")
    launcher.wait(0)
    wait_for(lambda: epochs(parent, "a"))
    job = launcher._batches[0].job
    subprocess.run(["scontrol", "requeue", f"{job}_0"], check=True)
    wait_for(lambda: queue("%T") == ["PENDING"])
    assert states(parent, "a") == "s"
    before = epochs(parent, "a")
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)  # not in two minutes
    wait_for(lambda: epochs(parent, "a") > before + 1)
    assert launcher.wait(0) == []


@pytest.mark.campaign  # Slurm looks at the time every half a minute
def test_before_its_time_is_up_it_saves(parent, endless, monkeypatch):
    monkeypatch.setattr(engine, "SECONDS_TO_SAVE", 57)
    launcher = Slurm(parent, sbatch="-t 1")
    begin(launcher, parent, "a")
    assert ends(launcher, 1)["a"] == Ended("a", -signal.SIGTERM, "")
    assert states(parent, "a") == "s"


def test_a_killed_training_is_told_and_the_rest_of_its_pack_is_trained(parent, stand_in_root):
    train = stand_in_root / "train.py"
    killed = "folder.lock()\n    if folder.path.name == 'b':\n        import os\n        os.kill(os.getpid(), 9)"
    train.write_text(train.read_text().replace("folder.lock()", killed))
    launcher = Slurm(parent, pack=4)
    begin(launcher, parent, "abcd")
    assert {name: ended.code for name, ended in ends(launcher, 4).items()} == {"a": 0, "b": -9, "c": 0, "d": 0}


def test_a_task_that_cannot_run_says_why(parent, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    launcher = Slurm(parent)
    begin(launcher, parent, "ab")
    found = ends(launcher, 2)
    assert [ended.code for ended in found.values()] == [1, 1]
    assert all(re.search(r"/nowhere/python: not found$", ended.errors) for ended in found.values())


def test_what_was_taken_back_does_nothing(parent):
    launcher = Slurm(parent, sbatch="--begin=now+3")
    begin(launcher, parent, "a")
    launcher.wait(0)
    (batch,) = (parent / "slurm").iterdir()
    (batch / "todo.json").unlink()
    assert ends(launcher, 1)["a"].code == -signal.SIGTERM
    assert states(parent, "a") == "-"


def test_what_sbatch_refuses(parent, monkeypatch):
    launcher = Slurm(parent, sbatch="-p nowhere")
    begin(launcher, parent, "a")
    with pytest.raises(UserError, match=r"^sbatch: .*[Ii]nvalid partition"):
        launcher.wait(0)
    assert not list((parent / "slurm").iterdir())
    with pytest.raises(UserError, match="--sbatch -p 'x: No closing quotation"):
        Slurm(parent, sbatch="-p 'x")


def test_what_sbatch_refuses_while_others_run_is_tried_again(parent, endless, monkeypatch):
    monkeypatch.setattr(engine, "RETRY_SECONDS", 0.0)
    launcher = Slurm(parent)
    begin(launcher, parent, "a")
    launcher.wait(0)
    begin(launcher, parent, "b")
    launcher._options.append("--partition=nowhere")
    launcher.wait(0)
    assert len(queue()) == 1
    del launcher._options[-1]
    launcher.wait(0)
    assert len(queue()) == 2


# --- whole searches --------------------------------------------------------------------------------------------------

RATES = [n / 1000 for n in range(1, 13)]


@pytest.fixture
def twelve(parent):
    return [trial.name for trial in make_plan(search_folder(parent, {"learning_rate": RATES})).trials]


def test_an_array_cancelled_midway_and_submitted_again(search, parent, twelve):
    first = search(parent, parent, "--engine", "slurm", "--jobs", "3")
    wait_for(lambda: states(parent, twelve).count("f") >= 3)
    scancel("--user=root")
    out, err = first.communicate(timeout=SECONDS)
    assert first.returncode == 143, err
    assert re.search(r"a 100% search: \d+ trainings were cancelled in the queue; the same command goes on\n$", err)
    done = states(parent, twelve).count("f")
    assert 3 <= done < 12
    second = search(parent, parent, "--engine", "slurm", "--jobs", "3")
    out, err = second.communicate(timeout=SECONDS)
    assert (second.returncode, err) == (0, "")
    assert states(parent, twelve) == "f" * 12
    assert times_finished(parent, twelve) == ["once\n"] * 12
    log = (parent / "search.log").read_text()
    assert [log.count(f"{name}: finished") for name in twelve] == [1] * 12
    assert out.count(": finished") == 12 - done
    assert (parent / "results.md").is_file()


def test_a_killed_search_takes_over_its_jobs(search, parent, twelve):
    before = submitted()
    first = search(parent, parent, "--engine", "slurm")
    wait_for(lambda: states(parent, twelve).count("f") >= 2)
    first.kill()
    first.communicate()
    second = search(parent, parent, "--engine", "slurm")
    _, err = second.communicate(timeout=SECONDS)
    assert (second.returncode, err) == (0, "")
    assert times_finished(parent, twelve) == ["once\n"] * 12
    assert len(submitted() - before) == 2  # 8 tasks and 4: nothing twice


@pytest.mark.campaign
def test_every_trial_is_trained_once_whatever_is_killed(search, parent, stand_in_root):
    """The search, by SIGKILL; trainings; tasks, by scancel; and tasks that are put back into the queue."""
    train = stand_in_root / "train.py"
    train.write_text(train.read_text().replace(f"EPOCHS = {EPOCHS}", "EPOCHS = 40"))
    kills, chance = 40, random.Random(0)
    rates = [n / 1000 for n in range(1, 41)]
    names = [trial.name for trial in make_plan(search_folder(parent, {"learning_rate": rates})).trials]
    hit: Counter[str] = Counter()
    kinds = itertools.cycle(["search", "training", "cancel", "requeue"])
    driver = search(parent, parent, "--engine", "slurm", "--pack", "2")
    while True:
        if driver.poll() is not None:
            assert driver.returncode in (0, 143, -signal.SIGKILL), driver.communicate()
            if driver.returncode == 0:
                break
            driver = search(parent, parent, "--engine", "slurm", "--pack", "2")
        time.sleep(chance.uniform(0.2, 2))
        tasks = queue("%T|%F_%K")
        running = [task.partition("|")[2] for task in tasks if task.startswith("RUNNING")]
        subprocess.run(["scontrol", "update", f"JobId={','.join(t.partition('|')[2] for t in tasks)}", "StartTime=now"],
                       capture_output=True)  # fmt: skip
        if hit.total() >= kills or not running:
            continue
        task, pids = chance.choice(running), [pid for name in names for pid in trained_by(parent / name)]
        if not pids:
            continue
        kind = next(kinds)
        hit[kind] += 1
        if kind == "search":
            driver.kill()
        elif kind == "training":
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(pids), signal.SIGKILL)
        else:
            subprocess.run(["scancel", task] if kind == "cancel" else ["scontrol", "requeue", task])
    assert hit.total() == kills
    assert states(parent, names) == "f" * len(names)
    assert times_finished(parent, names) == ["once\n"] * len(names)
    work = [(parent / name / "work.txt").read_text().splitlines() for name in names]
    again = sum(len(lines) - len(set(lines)) for lines in work)
    assert again <= hit["training"] + hit["search"]  # a training that is killed between its work and its checkpoint


def trained_by(folder):
    """The process that trains there, as its lock says."""
    if states(folder.parent, [folder.name]) != "r":
        return []
    return [int(pid) for pid in re.findall(r"process (\d+)", (folder / ".lock").read_text())]


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(search, times, parent, twelve, endless):
    driver = search(parent, parent, "--engine", "slurm", "--jobs", "2")
    wait_for(lambda: sum(epochs(parent, name) > 0 for name in twelve) == 2)
    for _ in range(times):
        driver.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, err = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 130
    if times == 1:
        assert "stopped; the same command goes on" in err
        assert states(parent, twelve) == "ss" + "q" * 10
        assert not queue()
    wait_for(lambda: not queue())


def test_a_true_search_in_packs(search, slurm_here, tiny_data, tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.001]})
    found = search(parent, tiny_data, "--engine", "slurm", "--pack", "2")
    out, err = found.communicate(timeout=5 * SECONDS)
    assert (found.returncode, err) == (0, "")
    for name in ("learning_rate_0.01", "learning_rate_0.001"):
        assert f"{name}: finished, accuracy" in out
        assert (parent / name / "weights_best.safetensors").is_file()
    assert (parent / "results.csv").is_file()


@pytest.mark.campaign
def test_true_trainings_that_are_cancelled_end_as_if_they_were_not(search, slurm_here, tiny_data, tmp_path):
    rates = {"learning_rate": [0.01, 0.001]}
    parent, alone = (search_folder(tmp_path / name, rates, num_epochs=40) for name in "xy")
    names = ["learning_rate_0.01", "learning_rate_0.001"]
    history = [parent / name / "history.json" for name in names]
    logs = [parent / name / "train.log" for name in names]
    for times in range(2):
        found = search(parent, tiny_data, "--engine", "slurm")
        wait_for(lambda: all(path.exists() for path in history))
        wait_for(lambda: all(log.read_text().count("continuing after") == times for log in logs))  # noqa: B023
        scancel("--user=root")
        assert found.wait(SECONDS) == 143
        assert states(parent, names) == "ss"
    for folder in (parent, alone):
        found = search(folder, tiny_data, "--engine", "slurm")
        assert found.wait(5 * SECONDS) == 0
    assert [log.read_text().count("continuing after") for log in logs] == [2, 2]
    for name in names:
        assert outcome(parent / name) == outcome(alone / name)


def test_out_of_memory_is_the_first_ones_fault(tmp_path, monkeypatch):
    """As with cgroups, which the cluster of these tests does not have."""
    tasks = {}

    def submit(options, script):
        name = next(option for option in options if option.startswith("--job-name=")).removeprefix("--job-name=")
        tasks[name, "0"] = Task("7", "OUT_OF_MEMORY")
        return "7"

    for name, answer in (("submit", submit), ("queue", lambda names: tasks), ("longest_array", lambda: 8)):
        monkeypatch.setattr(slurm_commands, name, answer)
    launcher = Slurm(tmp_path, pack=2)
    begin(launcher, tmp_path, "ab")
    first, second = launcher.wait(0)
    assert (first.name, first.oom) == ("a", True)
    assert first.errors == "its job took more memory than it was given; --sbatch='--mem=…' asks for more"
    assert (second.name, second.code, second.oom) == ("b", -signal.SIGTERM, False)


def test_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="scontrol is not there; --engine slurm works where Slurm's commands are"):
        Slurm(tmp_path)


def test_a_controller_that_is_silent(parent, tmp_path, monkeypatch):
    launcher = Slurm(parent)
    begin(launcher, parent, "a")
    launcher.wait(0)
    config = tmp_path / "slurm.conf"
    text = re.sub("(SlurmctldPort)=.*", r"\1=9", Path(os.environ["SLURM_CONF"]).read_text())
    config.write_text(f"{text}MessageTimeout=2\n")
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("SLURM_CONF", str(config))
        with pytest.raises(UserError, match=r"^slurm_load_jobs error: Unable to contact .*; scontrol ping says how"):
            Slurm(parent)
        assert ends(launcher, 1)["a"].code == 0  # told by the task itself
