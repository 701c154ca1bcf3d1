"""utils: errors, names, whole files or none, strict JSON, logging."""

import errno
import hashlib
import io
import json
import logging
import math
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

import include
import utils
from utils import BusyError, Interrupted, TrainingFault, UserError, log, logging_to, peak_memory_mb, write_atomic

# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (lambda: UserError("two\nlines"), 2, "two\nlines\n"),
        (lambda: BusyError("in use"), 3, "in use\n"),
        (lambda: TrainingFault("no memory", "oom"), 4, "no memory\n"),
        (lambda: Interrupted(signal.SIGTERM, "stopped"), 143, "stopped\n"),
        (lambda: Interrupted(signal.SIGINT), 130, ""),
        (lambda: KeyboardInterrupt("text"), 130, ""),
    ],
)
def test_reported_errors(
    capsys: pytest.CaptureFixture[str], error: Callable[[], BaseException], code: int, text: str
) -> None:
    @utils.reports_errors
    def main(argv: list[str], *, loud: bool) -> int:
        assert (argv, loud) == (["x"], True)
        raise error()

    assert main(["x"], loud=True) == code
    assert main.__name__ == "main"
    assert capsys.readouterr() == ("", text)


def test_what_is_no_error_passes() -> None:
    assert utils.reports_errors(lambda: include.SOME_FAILED)() == 1
    with pytest.raises(ZeroDivisionError):  # a fault of the program keeps its traceback
        utils.reports_errors(lambda: 1 // 0)()
    assert TrainingFault("x").reason == "error"
    assert TrainingFault("x", "oom").reason == "oom"


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet81", "resnet18"), ("ResNet18", "resnet18"), ("adamw", "AdamW"), ("xs", "ps"), ("zzz", None), ("", None)],
)
def test_nearest(name: str, expected: str | None) -> None:
    assert utils.nearest(name, ["resnet18", "resnet50", "AdamW", "ps", "wd"]) == expected


def test_nearest_is_near_and_always_the_same() -> None:
    assert utils.nearest("abc", ["abxy"]) is None  # four of seven letters; of two letters one is enough
    for choices in (["Adam", "ADAM"], ["ADAM", "Adam"]):
        assert utils.nearest("adam", choices) == "ADAM"


def test_did_you_mean() -> None:
    assert utils.did_you_mean("yess", ["yes", "no"]) == '; did you mean "yes"?'
    assert utils.did_you_mean("maybe", {"yes": 1, "no": 0}) == "; choose from no, yes"
    assert utils.did_you_mean("maybe", []) == ""
    assert utils.did_you_mean("maybe", map(str, range(21))) == ""
    assert utils.did_you_mean("maybe", map(str, range(20))).count(", ") == 19
    assert utils.did_you_mean("a\x1bc", ["a\x1bb"]) == '; did you mean "a\\x1bb"?'
    assert utils.did_you_mean("maybe", ["\x1b\n"]) == "; choose from \\x1b\\n"


def test_select() -> None:
    assert utils.select("a", {"a": 1}, "metric") == 1
    with pytest.raises(UserError, match=r'^"acuracy" is not a known metric; did you mean "accuracy"\?$'):
        utils.select("acuracy", {"accuracy": 1}, "metric")


def test_optional_import() -> None:
    assert utils.optional_import("json", "x") is json
    with pytest.raises(UserError, match=r"^no_such_module is not installed: pip install 'dossier\[x\]'$"):
        utils.optional_import("no_such_module", "dossier[x]")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0001, "0.0001"),
        (1e-7, "0.0000001"),
        (1.50, "1.5"),
        (2.0, "2"),
        (100, "100"),
        (1e22, "10000000000000000000000"),
        (10**30, "1" + "0" * 30),
        (2**53 + 1, "9007199254740993"),
        (-0.25, "-0.25"),
        (np.float64(0.1), "0.1"),
        (True, "True"),
        (math.inf, "inf"),
    ],
)
def test_positional(number: float, text: str) -> None:
    assert utils.positional(number) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_positional_keeps_every_digit(number: float) -> None:
    text = utils.positional(number)
    assert float(text) == number
    assert "e" not in text.lower()


@given(st.text())
def test_printable(text: str) -> None:
    assert utils.printable(text).isprintable()
    assert utils.printable("naïve 数 name") == "naïve 数 name"
    assert utils.printable("a\nb\x1b[31m\ud800\u202e") == "a\\nb\\x1b[31m\\ud800\\u202e"


# --- files -----------------------------------------------------------------------------------------------------------


def test_write_atomic(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for data in (b"one", b"", b"x" * 100_000):
        assert write_atomic(path, data) == hashlib.sha256(data).hexdigest()
        assert path.read_bytes() == data
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(("mask", "mode"), [(0, 0o666), (0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_file_is_as_open_as_the_umask_says(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "a", b"one")
    finally:
        after = os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert after == mask


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["fdopen", "fchmod", "fsync", "replace"])
def test_a_failed_write_keeps_the_old_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "a\nb.json"
    write_atomic(path, b"old")
    called = []

    def fails(*_: object, **__: object) -> None:
        called.append(call)
        raise OSError(code, os.strerror(code))

    real = os.fdopen
    if call == "fdopen":  # the write itself fails, as on a full disk

        def opens(descriptor: int, mode: str) -> Any:
            file = real(descriptor, mode)
            return _Failing(file, fails)

        monkeypatch.setattr(os, call, opens)
    else:
        monkeypatch.setattr(os, call, fails)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free={tmp_path: 5 * 2**19}[folder]))
    with pytest.raises(TrainingFault) as caught:
        write_atomic(path, b"n" * 2**20)
    assert str(caught.value) == (
        f"{tmp_path}/a\\nb.json: cannot be written ({os.strerror(code)}); it needs 1.0 MB, 2.5 MB free"
    )
    assert called == [call]
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


class _Failing:
    """A file whose write fails."""

    def __init__(self, file: Any, fails: Any) -> None:
        self.file, self.write = file, fails

    def __enter__(self) -> "_Failing":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupts(_: int) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(os, "fsync", interrupts)
    with pytest.raises(Interrupted):
        write_atomic(tmp_path / "a", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_write_flushes_file_and_folder_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    sync, replace = os.fsync, os.replace

    def noted_sync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def noted_replace(a: str, b: Path) -> None:
        calls.append("replace")
        assert Path(a).parent == tmp_path
        assert Path(a).name.startswith(utils.TEMPORARY_PREFIX)  # what a start after a crash sweeps away
        replace(a, b)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_atomic(tmp_path / "a", b"new")
    assert calls == ["file", "replace", "folder"]
    utils.write_all_atomic(tmp_path, {"b": b"new", "c": b"newer"})
    assert calls[3:] == ["file", "file", "replace", "replace", "folder"]
    assert [(tmp_path / name).read_bytes() for name in "bc"] == [b"new", b"newer"]


def test_files_written_together_are_flushed_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, together = os.fsync, threading.Barrier(3, timeout=60)

    def waits(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            together.wait()  # for the others
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", waits)
    written = utils.write_all_atomic(tmp_path, {"a": b"one", "b": b"two", "c": b"three"})
    assert written == {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in "abc"}


def test_one_of_several_that_cannot_be_written_leaves_all_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def fails(descriptor: int) -> None:
        if os.fstat(descriptor).st_size == 2**20:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fails)
    message = rf"^{tmp_path}/b: cannot be written \({os.strerror(errno.EIO)}\); it needs 1\.0 MB"
    with pytest.raises(TrainingFault, match=message):
        utils.write_all_atomic(tmp_path, {"a": b"new", "b": b"n" * 2**20, "c": b"new"})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def fails(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fails)
    message = rf"^{tmp_path}: cannot be written \({os.strerror(errno.EIO)}\); it needs 0\.0 MB"
    with pytest.raises(TrainingFault, match=message):
        write_atomic(tmp_path / "a", b"new")


def test_a_temporary_file_that_cannot_be_removed_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "unlink", fails)
    write_atomic(tmp_path / "a", b"one")
    utils.keep_previous(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"one"


def test_make_folder(tmp_path: Path) -> None:
    for _ in range(2):
        utils.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(
        TrainingFault, match=r"file: cannot be written \(File exists\); it needs 0\.0 MB, \d+\.\d MB free$"
    ):
        utils.make_folder(tmp_path / "file")


def test_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    utils.move(tmp_path / "a", tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "c"]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free={tmp_path: 2**20}[folder]))
    with pytest.raises(TrainingFault) as caught:
        utils.move(tmp_path / "b", tmp_path / "c")
    assert str(caught.value) == f"{tmp_path}/c: cannot be written (Directory not empty); it needs 0.0 MB, 1.0 MB free"


def test_write_into_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, message = tmp_path / "no" / "folder" / "a", r"a: cannot be written \(No such file or directory\); it needs"
    with pytest.raises(TrainingFault, match=rf"{message} 0\.0 MB, \d+\.\d MB free$"):
        write_atomic(path, b"")
    monkeypatch.setattr("shutil.disk_usage", mock.Mock(side_effect=OSError))
    with pytest.raises(TrainingFault, match=rf"{message} 0\.0 MB, free space unknown$"):
        write_atomic(path, b"")


def test_a_failure_without_a_number_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise OSError("the disk has gone")

    monkeypatch.setattr(os, "fsync", fails)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        TrainingFault, match=r"^a: cannot be written \(the disk has gone\); it needs 0\.0 MB, \d+\.\d MB free$"
    ):
        write_atomic(Path("a"), b"")


def test_a_killed_writer_leaves_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "a"
    code = f"""
import sys; sys.path.insert(0, {str(include.ROOT)!r})
from pathlib import Path
from utils import write_atomic
while True:
    for letter in b"ab":
        write_atomic(Path({str(path)!r}), bytes([letter]) * 300_000)
"""
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", code])
        while not path.exists():
            time.sleep(0.01)
        time.sleep(0.05)
        writer.kill()
        writer.wait()
        data = path.read_bytes()
        assert len(data) == 300_000
        assert len(set(data)) == 1


def test_keep_previous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, previous = tmp_path / "a", tmp_path / "b"
    utils.keep_previous(path, previous)
    assert not previous.exists()
    write_atomic(path, b"one")
    utils.keep_previous(path, previous)
    utils.keep_previous(path, previous)  # as after a crash in between
    write_atomic(path, b"two")
    assert (path.read_bytes(), previous.read_bytes()) == (b"two", b"one")
    utils.keep_previous(path, previous)
    assert previous.read_bytes() == b"two"
    assert previous.samefile(path)  # a second name, not a second copy

    def refuses(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuses)
    write_atomic(path, b"three")
    utils.keep_previous(path, previous)
    assert previous.read_bytes() == b"three"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_keep_previous_goes_on_after_a_crash_in_its_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, previous = tmp_path / "a", tmp_path / "b"
    write_atomic(path, b"one")

    def crashes(temporary: Path, _: Path) -> None:
        temporaries.append(temporary)
        os.link(temporary, tmp_path / "left")
        raise Interrupted(signal.SIGTERM)

    temporaries: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crashes)
        with pytest.raises(Interrupted):
            utils.keep_previous(path, previous)
    (temporary,) = temporaries
    assert temporary == tmp_path / f"{utils.TEMPORARY_PREFIX}a-{os.getpid()}"
    (tmp_path / "left").rename(temporary)  # as kill -9 leaves it
    write_atomic(path, b"two")
    utils.keep_previous(path, previous)
    assert previous.read_bytes() == b"two"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_to_json_is_strict() -> None:
    value = {"nan": math.nan, "in": [math.inf, (-math.inf, 1.5)], 3: Path("a/b"), "ü": "\ud800", "np": np.float32(0.5),
             "array": np.array([[1, 2]]), "nan array": np.array([np.nan]), "flag": np.True_}  # fmt: skip
    text = utils.to_json(value)
    back = json.loads(text, parse_constant=pytest.fail)
    assert back == {"nan": None, "in": [None, [None, 1.5]], "3": "a/b", "ü": "\ud800", "np": 0.5,
                    "array": [[1, 2]], "nan array": [None], "flag": True}  # fmt: skip


def test_to_json_is_laid_out_for_people() -> None:
    assert utils.to_json({"a": [1], "ü": None}) == '{\n  "a": [\n    1\n  ],\n  "ü": null\n}\n'.encode()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON_VALUES)
def test_json_round_trip(value: Any) -> None:
    assert json.loads(utils.to_json(value)) == value


def test_read_json(tmp_path: Path) -> None:
    path = tmp_path / "a\nb.json"
    path.write_bytes(utils.to_json({"ü": [1, None]}))
    assert utils.read_json(path) == {"ü": [1, None]}
    for damaged in (b"", b'{"a": ', b"\xff\xfe{", b"[" * 100_000):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"/a\\nb\.json: is not valid JSON \(.+\)$") as caught:
            utils.read_json(path)
        assert str(caught.value).isprintable()
    with pytest.raises(UserError) as caught:
        utils.read_json(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read (Is a directory)"


# --- talking ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _own_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """tqdm's own lock is shared with forked processes: one that is killed would leave it locked for all others."""
    monkeypatch.setattr(tqdm, "_lock", threading.RLock(), raising=False)
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # no thread either


def test_logging_to_terminal_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = log.level, log.propagate, list(log.handlers)
    path = tmp_path / "train.log"
    with logging_to(path):
        log.info("naïve %s", "\ud800")
        log.error("details", extra={"file_only": True})
        log.debug("silent")
        log.info("")
    with logging_to(path):
        log.info("again")
    with logging_to(None):
        log.warning("terminal")
    assert (log.level, log.propagate, log.handlers) == before
    assert capsys.readouterr().out.splitlines() == ["naïve \\ud800", "again", "terminal"]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line[24:] for line in lines] == ["INFO naïve \\ud800", "ERROR details", "INFO ", "INFO again"]


def test_logging_of_a_program_that_writes_data(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(None, "stderr"):
        log.warning("aside")
    assert capsys.readouterr() == ("", "aside\n")


def test_log_file_that_cannot_be_opened(tmp_path: Path) -> None:
    handlers = list(log.handlers)
    with pytest.raises(TrainingFault, match=r"cannot be written \(Is a directory\)"), logging_to(tmp_path):
        pass
    assert log.handlers == handlers


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_log_goes_on_without_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(Path("/dev/full")):
        log.info("one")
        log.info("two")
    out, err = capsys.readouterr()
    assert out.splitlines() == ["one", "/dev/full: cannot be written; logging goes on without it", "two"]
    assert err == ""


def test_a_wrong_log_call_is_not_blamed_on_the_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path / "train.log"):
        log.info("a number: %d", "x")
        log.info("goes on")
    out, err = capsys.readouterr()
    assert out == "goes on\n"
    assert err.count("Message: 'a number: %d'") == 2  # once for the terminal, once for the file
    assert "goes on" in (tmp_path / "train.log").read_text(encoding="utf-8")


def test_peak_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = tmp_path / "status"
    status.write_text("VmPeak:\t    9999 kB\nVmHWM:\t    3072 kB\nVmRSS:\t    1024 kB\n")
    assert peak_memory_mb(status) == 3.0
    status.write_text("VmRSS:\t    1024 kB\n")  # as some sandboxes have it
    usage = resource.getrusage(resource.RUSAGE_SELF)
    monkeypatch.setattr(resource, "getrusage", lambda who: {resource.RUSAGE_SELF: usage}[who])
    for platform, unit in (("linux", 2**10), ("darwin", 2**20)):
        monkeypatch.setattr(sys, "platform", platform)
        assert peak_memory_mb(status) == peak_memory_mb(tmp_path / "absent") == usage.ru_maxrss / unit


def test_peak_memory_is_not_that_of_what_started_the_process() -> None:
    large = b"x" * 300 * 2**20
    code = "from utils import peak_memory_mb; print(peak_memory_mb())"
    done = subprocess.run([sys.executable, "-c", code], cwd=include.ROOT, capture_output=True, text=True, check=True)
    assert 1 < float(done.stdout) < len(large) / 2**20


def test_progress_is_quiet_off_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(utils.progress(range(3), "counting", total=3)) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(utils.progress(range(3), "counting", total=40, initial=20, unit="images")) == [0, 1, 2]
    assert re.search(r"counting: +50%\|.* 20/40 \[.*images/s", terminal.getvalue())
    assert terminal.getvalue().endswith(" \r")  # and clears its line
    utils.progress(range(3), "reading").close()
    assert re.search(r"reading: +0%\|.* 0/3 \[.*\?it/s", terminal.getvalue())
    before = terminal.getvalue()
    monkeypatch.setattr(log, "disabled", True)
    assert list(utils.progress(range(3), "silent")) == [0, 1, 2]
    assert terminal.getvalue() == before


def test_a_log_line_keeps_to_the_terminals_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, shown in (("ascii", b"na\\xefve\n"), ("latin-1", b"na\xefve\n"), ("utf-8", b"na\xc3\xafve\n")):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, write_through=True))
        with logging_to(None):
            log.info("naïve")
            log.info(" \n")
            log.info("a ")
            log.info(" X")
        assert written.getvalue() == shown + b"a \n X\n"
    memory = io.StringIO()  # it has no encoding
    monkeypatch.setattr(sys, "stdout", memory)
    with logging_to(None):
        log.info("naïve")
    assert memory.getvalue() == "naïve\n"


def test_import_is_light() -> None:
    code = "import sys, utils; print(*(m for m in ('torch', 'numpy', 'tqdm', 'pydantic') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=include.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_the_log_has_one_name() -> None:
    assert log is logging.getLogger("dossier")


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert utils.cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    for known, expected in ((8, 8), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda known=known: known)
        assert utils.cores() == expected
