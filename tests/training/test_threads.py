"""Threads are as many as there are cores that nobody else keeps busy."""

import os
import subprocess
import sys

import pytest
import torch

import include
from training import threads
from training.threads import Watch, busy_cores

BEFORE = """cpu  300 0 300 5000 0 0 0 0 0 0
cpu0 100 0 100 1000 50 0 0 0 0 0
cpu1 100 0 100 2000 50 0 0 0 0 0
cpu2 100 0 100 2000 50 0 0 0 0 0
intr 5 5 5
"""


def stat(*spent):
    """A later reading: what each core has spent since, as (busy ticks, idle ticks)."""
    lines = BEFORE.splitlines()
    for number, (busy, idle) in enumerate(spent):
        fields = lines[number + 1].split()
        fields[1:6] = [str(int(old) + new) for old, new in zip(fields[1:6], (busy, 0, 0, idle, 0), strict=True)]
        lines[number + 1] = " ".join(fields)
    return "\n".join(lines)


def test_busy_cores():
    assert busy_cores(BEFORE, stat((20, 0), (0, 20), (10, 10)), {0, 1, 2}) == 1.5
    assert busy_cores(BEFORE, stat((20, 0), (0, 20), (10, 10)), {1, 2}) == 0.5
    assert busy_cores(BEFORE, BEFORE, {0, 1, 2}) == 0.0  # no tick has passed


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with three cores, of which torch would use two at most; returns how to say what the cores do."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(threads, "STAT", tmp_path / "stat")
    monkeypatch.setattr(threads, "own_seconds", lambda: 0.0)
    (tmp_path / "stat").write_text(BEFORE)

    def says(*spent):
        monkeypatch.setattr(threads.time, "sleep", lambda _: (tmp_path / "stat").write_text(stat(*spent)))

    return says


@pytest.mark.parametrize(
    ("spent", "expected"),
    [
        (((0, 20), (0, 20), (0, 20)), 2),
        (((20, 0), (0, 20), (0, 20)), 2),  # a core more than torch would use
        (((20, 0), (5, 15), (0, 20)), 2),  # a little is spared
        (((20, 0), (10, 10), (0, 20)), 1),
        (((20, 0), (20, 0), (20, 0)), 1),
    ],
)
def test_a_core_that_others_use_is_left_to_them(machine, spent, expected):
    machine(*spent)
    assert Watch().idle_threads()[0] == expected


def test_what_this_process_does_is_no_reason(machine, monkeypatch):
    machine((20, 0), (20, 0), (20, 0))
    own, now = iter((0.0, 3.0)), iter((0.0, 0.0, 1.0))  # three cores for a second
    monkeypatch.setattr(threads, "own_seconds", lambda: next(own))
    monkeypatch.setattr(threads.time, "monotonic", lambda: next(now))
    assert Watch().idle_threads() == (2, 0.0)


def test_what_has_been_watched_for_long_is_not_waited_for(machine, monkeypatch):
    machine((20, 0), (20, 0), (20, 0))
    now, slept = [0.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(threads.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(threads.time, "sleep", sleep)
    for seconds in (0.0, 0.05, 5.0):
        watch = Watch()
        now[0] += seconds
        watch.idle_threads()
    assert slept == pytest.approx([0.2, 0.15, 0.0])


def test_what_a_person_asks_for_is_not_questioned(machine, monkeypatch):
    machine((20, 0), (20, 0), (20, 0))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert Watch().idle_threads() == (2, 0.0)


def test_a_system_that_does_not_tell(machine, tmp_path):
    (tmp_path / "stat").unlink()
    assert Watch().idle_threads() == (2, 0.0)


def test_what_it_started_is_its_own():
    before = threads.own_seconds()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert threads.own_seconds() - before >= 0.25


@pytest.mark.skipif(not threads.STAT.is_file(), reason="needs Linux")
def test_the_system_is_read_as_it_is():
    code = "from training.threads import Watch; n, others = Watch().idle_threads(); print(n, others)"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=include.ROOT, env=environment, capture_output=True, text=True, check=True
    )
    number, others = done.stdout.split()
    assert 1 <= int(number) <= len(os.sched_getaffinity(0))
    assert 0 <= float(others) <= len(os.sched_getaffinity(0))
