"""A folder that is read while torch is imported: what is found is remembered, and nothing else is changed by it."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import include
from images import folder as folder_module
from images import memory, read_ahead
from images.folder import check_headers, scan
from images.read import read_header
from images.read_ahead import reading_ahead
from utils import read_json


@pytest.fixture
def data(tiny_data, tmp_path):
    return shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))


@pytest.fixture
def to_gain(monkeypatch):
    """A program that has yet to import torch, on two cores."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)


def remembered(data):
    path = data / memory.CACHE / memory.FILE
    return set(read_json(path)["files"]) if path.is_file() else set()


def paths_of(data):
    return {path for split in scan(data).splits.values() for path in split.paths}


def test_nothing_is_read_again(data, to_gain, monkeypatch):
    bad = data / "train" / "apple" / "0.png"
    bad.write_bytes(b"no image")  # which is told by whoever needs it
    time.sleep(memory.SETTLED + 0.1)
    with reading_ahead(data):
        deadline = time.monotonic() + 30
        while not remembered(data):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert remembered(data) == paths_of(data) - {"train/apple/0.png"}
    seen = []
    monkeypatch.setattr(folder_module, "read_header", lambda path, limit: seen.append(path) or read_header(path, limit))
    _, left_out = check_headers(scan(data), 100, skip_bad=True)
    assert seen == [bad]
    assert [path for path, _ in left_out] == ["train/apple/0.png"]


def test_it_stops_when_told_and_keeps_what_it_found(data, monkeypatch):
    seen = []

    def told_at_the_fifth(file, limit):
        seen.append(file)
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return read_header(file, limit)

    monkeypatch.setattr(memory, "SETTLED", -10.0)
    monkeypatch.setattr(read_ahead, "read_header", told_at_the_fifth)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit):
            read_ahead.read(data, os.getppid())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert len(seen) == 5
    assert len(remembered(data)) == 4


def test_it_stops_when_left_alone(data, monkeypatch):
    monkeypatch.setattr(memory, "SETTLED", -10.0)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    read_ahead.read(data, parent=0)
    assert not remembered(data)
    read_ahead.read(data, os.getppid())
    assert remembered(data) == paths_of(data)


DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


@pytest.mark.parametrize("program", ["print(flush=True); import time; time.sleep(60)", DEAF])
def test_nobody_waits_for_it(data, to_gain, monkeypatch, program):
    started, popen = [], subprocess.Popen

    def start(command, **options):
        started.append(popen([sys.executable, "-c", program], stdout=subprocess.PIPE))
        started[0].stdout.read(1)
        return started[0]

    monkeypatch.setattr(read_ahead, "PATIENCE", 0.2)
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt), reading_ahead(data):
        raise KeyboardInterrupt
    assert started[0].returncode == (-signal.SIGKILL if program == DEAF else -signal.SIGTERM)
    started[0].stdout.close()


@pytest.mark.parametrize("why", ["torch is there", "known", "one core", "cannot be written", "not there", "too long"])
def test_where_nothing_is_to_be_gained(data, to_gain, monkeypatch, why):
    monkeypatch.setattr(subprocess, "Popen", None)
    if why == "torch is there":
        monkeypatch.setitem(sys.modules, "torch", None)
    elif why == "known":
        (data / memory.CACHE).mkdir()
        (data / memory.CACHE / memory.FILE).touch()
    elif why == "one core":
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    elif why == "cannot be written":
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    else:
        data /= "none" if why == "not there" else "n" * 300
    with reading_ahead(data):
        pass


def test_a_process_that_cannot_be_started(data, to_gain, monkeypatch):
    def refuse(command, **options):
        raise BlockingIOError(errno.EAGAIN, "too many processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with reading_ahead(data):
        assert not remembered(data)


@pytest.mark.slow
def test_train_py_has_it_read(data, tmp_path):
    """Although what it was to train is refused."""
    time.sleep(memory.SETTLED + 0.1)
    (tmp_path / "params.json").write_text('{"arch": "resnet81"}')
    command = [sys.executable, "train.py", "--data_dir", str(data), "--model_dir", str(tmp_path)]
    done = subprocess.run(command, cwd=include.ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "resnet81" in done.stderr
    assert remembered(data) == paths_of(data)
