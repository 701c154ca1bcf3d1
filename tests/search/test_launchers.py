"""Slots, what each training may use, and what is asked of a server before any training."""

import os
import signal
import stat

import pytest

from search import launchers
from search.launchers import Ahead, Server, slots, threads_per_slot
from tests.search.searches import search_folder
from utils import UserError


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(launchers, "cores", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def numbers(found):
    return [slot["CUDA_VISIBLE_DEVICES"] for slot in found]


def test_without_gpus_each_core_is_taken_once(eight_cores):
    assert numbers(slots(None, "cpu", 1)) == [""] * 8
    assert numbers(slots(3, "cpu", 1)) == [""] * 3
    assert [threads_per_slot(n) for n in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]


def test_fewer_threads_may_be_asked_for(eight_cores, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [threads_per_slot(n) for n in (1, 8)] == [2, 1]


def test_gpus_are_shared_out(eight_cores):
    assert numbers(slots(None, "0,3", 1)) == ["0", "3"]
    assert numbers(slots(None, "0,3", 2)) == ["0", "3", "0", "3"]
    assert numbers(slots(3, "0,1", 2)) == ["0", "1", "0"]
    for wrong in ("0,,1", "-1", "gpu0"):
        with pytest.raises(UserError, match="must be auto, cpu, or numbers"):
            slots(None, wrong, 1)


@pytest.mark.parametrize(("visible", "seen"), [("-1", []), ("2,-1,3", ["2"]), ("GPU-1f,MIG-2a", ["GPU-1f", "MIG-2a"])])
def test_minus_one_ends_what_is_visible(eight_cores, monkeypatch, visible, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert numbers(slots(None, "auto", 1)) == (seen or [""] * 8)


def test_without_a_gpu_there_is_none_to_share(eight_cores, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for gpus in ("cpu", "auto"):
        with pytest.raises(UserError, match=r"^--jobs_per_gpu 2: no GPU is used here; --jobs says how many"):
            slots(4, gpus, 2)


def test_auto_takes_what_is_visible(eight_cores, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert numbers(slots(None, "auto", 1)) == ["5", "7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert numbers(slots(2, "auto", 1)) == ["", ""]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 0\necho 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert numbers(slots(None, "auto", 1)) == ["0", "1"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert numbers(slots(1, "auto", 1)) == [""]


def test_a_server_that_was_started_ahead_is_taken_once_and_by_who_wants_as_many_threads():
    with Ahead(2, spawn=True) as ahead:
        assert ahead.take(1) is None
        server = ahead.take(2)
        assert server is not None
        assert ahead.take(2) is None
    assert server._process.poll() is None  # it is the taker's to close
    server.close()
    with Ahead(2, spawn=True) as ahead:
        process = ahead._server._process
    assert process.returncode == -signal.SIGKILL


def test_names_are_looked_up_before_trainings_are_spawned(tmp_path):
    parent = search_folder(tmp_path / "x", {"arch": ["resnet18", "resnet81"]}, arch="resnet18")
    server = Server(1, spawn=True)
    try:
        (problem,) = server.wrong(parent / "params.json", [{"arch": "resnet18"}, {"arch": "resnet81"}])
    finally:
        server.close()
    assert "resnet81" in problem
