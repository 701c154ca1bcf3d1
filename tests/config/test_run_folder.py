"""RunFolder: artefacts with their digests, state, lock, results moved aside."""

import contextlib
import errno
import fcntl
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import include
from config import run_folder
from config.run_folder import RunFolder
from utils import TEMPORARY_PREFIX, BusyError, TrainingFault, UserError, write_all_atomic, write_atomic


@pytest.fixture
def folder(file: Path) -> RunFolder:
    file.write_text('{"arch": "conv"}', encoding="utf-8")
    return RunFolder(file.parent)


def names(folder: RunFolder) -> list[str]:
    return sorted(str(p.relative_to(folder.path)) for p in folder.path.rglob("*") if p.is_file())


def test_a_folder_is_named_by_itself_or_by_its_params(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert RunFolder(folder.path / "params.json").path == RunFolder(str(folder.path)).path == folder.path
    assert folder.params == folder.file("params.json") == folder.path / "params.json"
    monkeypatch.chdir(folder.path)
    assert RunFolder("params.json").params.is_file()


@pytest.mark.parametrize(
    ("name", "shown", "what"),
    [
        ("no\nsuch", "no\\nsuch", "no such folder"),
        ("no/params.json", "no", "no such folder"),
        ("there", "there", "no params.json in it"),
        ("there/params.json", "there", "no params.json in it"),
    ],
)
def test_no_experiment(tmp_path: Path, name: str, shown: str, what: str) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError) as caught:
        RunFolder(tmp_path / name)
    assert str(caught.value) == f"{tmp_path}/{shown}: {what}; an experiment is a folder with a params.json"


def test_file_names() -> None:
    assert run_folder.weights_name("best") == "weights_best.safetensors"
    assert run_folder.metrics_name("valid", "last") == "metrics_val_last_weights.json"
    assert run_folder.metrics_name("test", "averaged") == "metrics_test_averaged_weights.json"
    assert run_folder.metrics_name("test", "best", tta="mirror") == "metrics_test_best_weights_tta.json"
    assert run_folder.metrics_name("test", "last", "mirror", True) == "metrics_test_last_weights_tta_calibrated.json"
    assert run_folder.calibration_name("best") == "calibration_best.json"
    assert run_folder.calibration_name("last", tta="shift") == "calibration_last_tta_shift.json"


# --- artefacts -------------------------------------------------------------------------------------------------------


def test_artefacts_are_read_as_written(folder: RunFolder) -> None:
    folder.write("report/a.bin", b"one")
    folder.write_json("history.json", {"loss": float("nan")})
    again = RunFolder(folder.path)
    assert again.read("report/a.bin") == b"one"
    assert again.read_json("history.json") == {"loss": None}
    assert again.intact("history.json")
    assert not again.intact("missing")
    assert list(again.digests()) == ["history.json", "report/a.bin"]
    folder.write("report/a.bin", b"two")
    assert RunFolder(folder.path).read("report/a.bin") == b"two"


def test_an_unchanged_artefact_leaves_the_manifest_alone(folder: RunFolder) -> None:
    folder.write("a", b"one")
    before = folder.file("manifest.json").stat().st_ino
    folder.write("a", b"one")
    assert folder.file("manifest.json").stat().st_ino == before


@pytest.mark.parametrize("change", [b"", b"onf", b"one ", b"on"])
def test_damage_is_noticed(folder: RunFolder, change: bytes) -> None:
    folder.write("a", b"one")
    folder.file("a").write_bytes(change)
    assert not folder.intact("a")
    with pytest.raises(UserError, match=r"a: damaged or changed since it was written \(sha256 differs"):
        folder.read("a")


def test_a_missing_artefact(folder: RunFolder) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(No such file.*has this experiment been trained\?"):
        folder.read("history.json")


def damaged(manifest: bytes) -> list[bytes]:
    flipped = [bytearray(manifest) for _ in manifest]
    for place, data in enumerate(flipped):
        data[place] ^= 1
    cut = [manifest[:end] for end in range(len(manifest))]
    other = [
        b"[1]",
        b'{"a": 5}',
        b"\xff",
        b"[" * 9999,
        b'{"manifest.json": "x"}',
        manifest + b" ",
        manifest[:-1] + b"\t",
    ]
    return [*map(bytes, flipped), *cut, *other]


def test_a_damaged_manifest_is_begun_anew(folder: RunFolder) -> None:
    folder.write("a", b"one")
    for manifest in damaged(folder.file("manifest.json").read_bytes()):
        folder.file("manifest.json").write_bytes(manifest)
        again = RunFolder(folder.path)
        assert again.digests() == {}
        assert not again.intact("a")
        with pytest.raises(UserError, match=r"a: cannot be verified: manifest\.json is missing, damaged or does not"):
            again.read("a")
    again.write("a", b"one")
    assert RunFolder(folder.path).read("a") == b"one"


def test_what_the_manifest_does_not_name_cannot_be_verified(folder: RunFolder) -> None:
    folder.write("a", b"one")
    folder.file("b").write_bytes(b"two")
    with pytest.raises(UserError, match=r"b: cannot be verified.*given again, writes anew what training wrote$"):
        folder.read("b")
    assert folder.read("a") == b"one"


def test_several_at_once_write_the_manifest_once(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def watched(place: Path, files: Mapping[str, bytes]) -> dict[str, str]:
        written.append([str((place / name).relative_to(folder.path)) for name in files])
        return write_all_atomic(place, files)

    monkeypatch.setattr("utils.write_all_atomic", watched)  # which write_atomic calls
    monkeypatch.setattr("config.run_folder.write_all_atomic", watched)
    folder.write_all({"a": b"one", "code/b": b"two", "d": b"four", "code/c": b"three"})
    assert written == [["code/b", "code/c"], ["a", "d"], ["manifest.json"]]
    assert RunFolder(folder.path).read("code/b") == b"two"


def test_a_manifest_that_was_not_written_is_written_next_time(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, data: bytes) -> str:
        return write_atomic(path / "absent", data)

    with monkeypatch.context() as patch:
        patch.setattr("config.run_folder.write_atomic", fails)
        with pytest.raises(TrainingFault):
            folder.write("a", b"one")
    folder.write("a", b"one")
    assert RunFolder(folder.path).read("a") == b"one"


def test_a_folder_is_shown_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nb\x1b[31m"
    path.mkdir()
    (path / "params.json").touch()
    assert str(RunFolder(path)) == f"{tmp_path}/a\\nb\\x1b[31m"


# --- state -----------------------------------------------------------------------------------------------------------


def test_state(folder: RunFolder) -> None:
    assert folder.status() == {}
    folder.set_state("running", epoch=1)
    folder.set_state("failed", reason="oom")
    status = folder.status()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", status.pop("updated"))
    assert status == {"state": "failed", "epoch": 1, "reason": "oom"}
    with pytest.raises(ValueError, match="done is not one of"):
        folder.set_state("done")


def test_a_damaged_state_is_told_and_can_be_replaced(folder: RunFolder) -> None:
    folder.file("status.json").write_bytes(b"{")
    with pytest.raises(UserError, match=r"status\.json: is not valid JSON"):
        folder.status()
    folder.set_state("running")
    assert folder.status()["state"] == "running"
    folder.file("status.json").write_bytes(b"[]")
    assert folder.status() == {}


# --- the lock --------------------------------------------------------------------------------------------------------

HOLDER = """
import sys; sys.path.insert(0, sys.argv[1])
from config.run_folder import RunFolder
folder = RunFolder(sys.argv[2])
folder.lock()
print("held", flush=True)
sys.stdin.readline()
"""


def test_one_process_at_a_time_and_a_crash_frees_it(folder: RunFolder) -> None:
    command = [sys.executable, "-c", HOLDER, str(include.ROOT), str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            BusyError, match=rf"is being trained by process {holder.pid} on \S+; wait for it or stop it"
        ):
            folder.lock()
        holder.kill()
        holder.wait()
        folder.lock()
    folder.unlock()


def test_lock_and_unlock(folder: RunFolder) -> None:
    folder.unlock()
    for _ in range(2):  # taken already, it stays so
        folder.lock()
    with pytest.raises(BusyError, match=f"by process {os.getpid()} on "):
        RunFolder(folder.path).lock()
    for _ in range(2):
        folder.unlock()
    other = RunFolder(folder.path)
    other.lock()
    with pytest.raises(BusyError):
        folder.lock()
    other.unlock()


def test_the_holder_is_shown_whatever_the_lock_says(folder: RunFolder) -> None:
    with folder.file(".lock").open("wb") as file:
        file.write(b"\xff\n" + b"x" * 999)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError) as caught:
            folder.lock()
    assert str(caught.value) == f"{folder}: is being trained by \ufffd\\n{'x' * 198}; wait for it or stop it"


def test_a_lock_is_as_open_as_the_umask_says(folder: RunFolder) -> None:
    before = os.umask(0)
    try:
        folder.lock()
    finally:
        os.umask(before)
    folder.unlock()
    assert stat.S_IMODE(folder.file(".lock").stat().st_mode) == 0o666


def test_a_worker_lets_go_without_freeing_it(folder: RunFolder) -> None:
    folder.lock()
    if (worker := os.fork()) == 0:
        folder.unlock()
        os._exit(0)
    os.waitpid(worker, 0)
    with pytest.raises(BusyError):
        RunFolder(folder.path).lock()
    folder.unlock()


def _fails(code: int) -> Any:
    def call(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


def test_a_folder_that_cannot_be_locked(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", _fails(errno.EROFS))
        with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\); choose a writable folder"):
            folder.lock()
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", _fails(errno.ENOLCK))
        with pytest.raises(UserError, match=r"cannot be locked \(No locks available\)") as caught:
            folder.lock()
        assert not isinstance(caught.value, BusyError)


@pytest.mark.parametrize("looks", [0, 3, 99])
def test_a_look_at_the_lock_is_waited_out(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] = len(slept) * seconds
        if len(slept) == looks:
            fcntl.flock(other, fcntl.LOCK_UN)

    monkeypatch.setattr(run_folder, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    other = os.open(folder.file(".lock"), os.O_RDWR | os.O_CREAT)
    try:
        if looks:
            fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(BusyError) if looks == 99 else contextlib.nullcontext():
            folder.lock()
    finally:
        os.close(other)
        folder.unlock()
    assert slept == [0.01] * min(looks, 20)


def test_a_full_disk_does_not_keep_from_locking(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", _fails(errno.ENOSPC))
    folder.lock()
    with pytest.raises(BusyError, match="is being trained by another process"):
        RunFolder(folder.path).lock()
    folder.unlock()


# --- leftovers and results -------------------------------------------------------------------------------------------


def test_sweep_leaves_children_alone(folder: RunFolder) -> None:
    child = folder.path / "learning_rate_0.1"
    for place in (folder.path, folder.path / "report", child, child / "report"):
        place.mkdir(exist_ok=True)
        (place / f"{TEMPORARY_PREFIX}x").touch()
        (place / "kept").touch()
    (child / "params.json").touch()
    folder.sweep(TEMPORARY_PREFIX)
    mine = ["kept", "params.json", "report/kept"]
    theirs = [f"{TEMPORARY_PREFIX}x", "kept", "params.json", f"report/{TEMPORARY_PREFIX}x", "report/kept"]
    assert names(folder) == sorted(mine + [f"learning_rate_0.1/{name}" for name in theirs])


def test_sweep_is_not_surprised_by_what_has_gone(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    there = folder.file(f"{TEMPORARY_PREFIX}there")
    there.touch()
    monkeypatch.setattr(os, "walk", lambda path: [(str(path), [], [f"{TEMPORARY_PREFIX}gone", there.name, "kept"])])
    folder.sweep(TEMPORARY_PREFIX)
    assert not there.exists()


def test_sweep_leaves_what_cannot_be_removed(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    there = folder.file(f"{TEMPORARY_PREFIX}there")
    there.touch()
    monkeypatch.setattr(os, "unlink", _fails(errno.EIO))
    folder.sweep(TEMPORARY_PREFIX)
    assert there.exists()


def test_results_are_moved_aside_and_inputs_stay(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    now, form = time.localtime(), time.strftime
    monkeypatch.setattr(time, "strftime", lambda text: form(text, now))
    inputs = ["README.md", "net.py", "params.json", "search.json", "learning_rate_0.1/params.json"]
    for name in (*inputs, "code/params.json", "code/net.py", "status.json"):
        folder.file(name).parent.mkdir(exist_ok=True)
        folder.file(name).touch()
    folder.write("report/a.png", b"1")
    asides = []
    for _ in range(3):  # within one second
        aside = folder.move_results_aside()
        assert aside is not None
        asides.append(aside)
        assert folder.results() == []
        assert folder.digests() == {}
        folder.write("history.json", b"{}")
    stamp = form("%Y%m%d-%H%M%S", now)
    assert [path.name for path in asides] == [f"before-{stamp}", f"before-{stamp}-1", f"before-{stamp}-2"]
    assert sorted(p.name for p in asides[0].iterdir()) == ["code", "manifest.json", "report", "status.json"]
    assert [p.name for p in folder.results()] == ["history.json", "manifest.json"]
    assert set(inputs) <= set(names(folder))


def test_results_that_cannot_be_moved_stay(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("history.json", b"{}")
    before = names(folder)
    for call, place in (("rename", r"before-[\d-]+/history\.json"), ("mkdir", r"before-[\d-]+")):
        monkeypatch.setattr(os, call, _fails(errno.ENOSPC))
        message = rf"{place}: cannot be written \(No space left on device\); it needs 0\.0 MB, \d+\.\d MB free$"
        with pytest.raises(TrainingFault, match=message):
            folder.move_results_aside()
        assert names(folder) == before


def test_nothing_to_move(folder: RunFolder) -> None:
    assert folder.move_results_aside() is None
    assert names(folder) == ["params.json"]


def test_a_failed_write_names_the_file(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("a", b"one")
    monkeypatch.setattr(os, "fsync", _fails(errno.ENOSPC))
    with pytest.raises(TrainingFault, match=r"a: cannot be written \(No space left on device\); it needs 0\.0 MB"):
        folder.write("a", b"two")
    assert RunFolder(folder.path).read("a") == b"one"


@pytest.mark.parametrize("name", ["calibration_best.json", "metrics_test_best_weights.json", "report/test_best/x.csv"])
def test_what_an_evaluation_wrote_it_writes_anew(folder: RunFolder, name: str) -> None:
    folder.write(name, b"one")
    folder.file(name).write_bytes(b"two")
    with pytest.raises(UserError, match=r"damaged or changed.*the evaluate\.py command that wrote it, given again"):
        folder.read(name)
