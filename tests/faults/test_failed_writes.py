"""A full disk, a broken disk, a folder that cannot be written: told in one line, and nothing is lost."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
from collections import Counter

import pytest

from config.run_folder import RunFolder
from tests.faults.server import Plant
from tests.faults.trials import differences, fresh, overwrite, sample, told

PARAMS = {"cache": "disk", "ema_decay": 0.9, "num_epochs": 2}
FLOOR = 60
CODES = (errno.ENOSPC, errno.EIO)
PLANTS: tuple[Plant, ...] = (("few_sources", {}), ("no_drawing", {}), ("small_net", {}))

# Calls whose failure harms nothing: for a file that is left, the name of the lock's holder, a folder that is there, the
# second name of a checkpoint, which is copied then, the decoded images, which are kept in memory then.
HARMLESS = re.compile(
    r"unlink run/(\w+/)*temporary|(ftruncate|write|half write) run/\.lock|mkdir run/|link run/temporary"
    r"|replace run/checkpoint\.prev\.pt|.* data/.*"
)


def roots(path, data):
    return {"run": str(path), "data": str(data)}


@pytest.fixture(scope="module")
def undisturbed(server, data, place):
    path = fresh(place / "undisturbed", **PARAMS)
    shutil.rmtree(data / ".cache", ignore_errors=True)
    noting = ("boundaries", {"roots": roots(path, data), "note": str(place / "noted")})
    ended = server.train(path, data, plants=[*PLANTS, noting])
    assert ended.code == 0, ended.err
    yield path, json.loads((place / "noted").read_text())
    shutil.rmtree(path)


class Harness:
    def __init__(self, server, data, place, undisturbed):
        self.server, self.data, self.path, self.note = server, data, place / "failed", place / "written"
        self.reference, self.labels = undisturbed
        self.failed = Counter()
        self.wrong = []

    def __str__(self):
        return f"{', '.join(f'{count} {name}' for name, count in self.failed.items())}, {len(self.wrong)} wrong"

    def fail_at(self, number, code):
        fresh(self.path, **PARAMS)
        shutil.rmtree(self.data / ".cache", ignore_errors=True)
        self.note.unlink(missing_ok=True)
        plant = ("fails_at", {"roots": roots(self.path, self.data), "number": number, "code": code})
        ended = self.server.train(
            self.path, self.data, plants=[*PLANTS, ("note_writes", {"note": str(self.note)}), plant]
        )
        label = self.labels[number - 1]
        assert f"{label}\n" in ended.out, f"{label} was not reached"
        self.failed[errno.errorcode[code]] += 1
        found = self.answer(number, os.strerror(code), ended) + torn(self.path, self.note)
        again = self.server.train(self.path, self.data, plants=PLANTS)
        if again.code != 0 and "already finished" not in again.err:
            found.append(f"continued: exit code {again.code}: {again.err}")
        else:
            found += differences(self.path, self.reference)
        self.wrong += [f"{number} {errno.errorcode[code]} {label}: {difference}" for difference in found]

    def answer(self, number, reason, ended):
        """What is wrong with the exit code and the message."""
        label = self.labels[number - 1]
        operation, _, place = label.partition(" ")
        is_there = any(earlier.startswith(f"open {place}/") for earlier in self.labels[: number - 1])
        if HARMLESS.fullmatch(label) or (operation == "mkdir" and is_there):
            return [] if ended.code == 0 else [f"exit code {ended.code}: {ended.err}"]
        message = rf"{self.path}\S*: cannot be written \({reason}\); it needs \d+\.\d MB, \d+\.\d MB free\n"
        if label == "open run/.lock":
            message = rf"{self.path}: cannot be written \({reason}\); choose a writable folder\n"
        fits = re.fullmatch(message, ended.err) and ended.code == (2 if label == "open run/.lock" else 4)
        return [] if fits else [f"exit code {ended.code}: {ended.err}"]


def torn(path, note):
    """Artefacts that are neither what the manifest says nor what was to be written."""
    written = set(note.read_text().splitlines()) if note.exists() else set()
    folder = RunFolder(path)
    return [
        f"{name} is neither old nor new"
        for name, digest in folder.digests().items()
        if not folder.intact(name) and f"{sha256(path / name)} {path / name}" not in written
    ]


def sha256(path):
    return subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]


@pytest.fixture
def harness(server, data, place, undisturbed):
    return Harness(server, data, place, undisturbed)


@pytest.mark.slow
def test_some_writes_fail(harness, say):
    for turn, number in enumerate(sample(harness.labels, 36)):
        harness.fail_at(number, CODES[turn % 2])
    say(f"failed writes: {harness}")
    assert harness.failed.total() >= 36
    assert not harness.wrong, "\n".join(harness.wrong)


@pytest.mark.campaign
@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_every_write_fails(harness, code, say):
    for number in told(range(1, len(harness.labels) + 1), harness, say):
        harness.fail_at(number, code)
    say(f"failed writes: {harness}")
    assert harness.failed.total() >= FLOOR
    assert not harness.wrong, "\n".join(harness.wrong)


@pytest.mark.slow
def test_results_that_cannot_be_moved_aside_are_not_lost(server, data, place, undisturbed, say):
    reference, _ = undisturbed
    path, note = place / "overwritten", place / "noted"

    def overwritten(plant, arguments):
        plants = [*PLANTS, (plant, {"roots": roots(path, data)} | arguments)]
        return overwrite(server, data, path, reference, plants)

    assert overwritten("boundaries", {"note": str(note)}).code == 0
    moves = [number for number, label in enumerate(json.loads(note.read_text()), 1) if "run/before" in label]
    assert len(moves) >= 20
    for turn, number in enumerate(moves):
        code = CODES[turn % 2]
        ended = overwritten("fails_at", {"number": number, "code": code})
        message = rf"{path}/before-\S+: cannot be written \({os.strerror(code)}\); it needs 0\.0 MB, \d+\.\d MB free\n"
        assert ended.code == 4
        assert re.fullmatch(message, ended.err), ended.err
    say(f"moves of results that failed: {len(moves)}, none lost")


@pytest.mark.slow
def test_a_full_disk_is_told_also_when_a_signal_came(server, data, place):
    path = fresh(place / "failed", **PARAMS)
    at = ("reach", {"where": "training.recorder:Recorder.pause_point", "count": 2, "pause": 0.2})
    full = ("fails_in", {"where": "training.checkpoint:save", "code": errno.ENOSPC})
    ended = server.train(path, data, plants=[*PLANTS, at, full], signals=[(0, signal.SIGTERM)])
    assert ended.code == 128 + signal.SIGTERM
    assert "checkpoint.pt: cannot be written (No space left on device)" in ended.out + ended.err


# --- true file systems -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder, options):
    """A small file system in memory, where mounting is allowed."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount here")
def test_a_full_file_system(server, data, undisturbed, tmp_path):
    reference, _ = undisturbed
    with mounted(tmp_path / "small", "size=640k"):
        path = fresh(tmp_path / "small" / "x", **PARAMS)
        ended = server.train(path, data, plants=PLANTS)
        assert ended.code == 4, ended
        assert re.fullmatch(
            r".*/small/x/\S+: cannot be written \(No space left on device\); it needs \d+\.\d MB, \d+\.\d MB free\n",
            ended.err,
        )
        remount(tmp_path / "small", "size=100m")
        folder = RunFolder(path)
        assert folder.digests()
        assert all(folder.intact(name) for name in folder.digests())
        assert server.train(path, data, plants=PLANTS).code == 0
        assert differences(path, reference) == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount here")
@pytest.mark.parametrize("started", [False, True], ids=["new", "begun"])
def test_a_read_only_folder_is_refused_before_training(server, data, tmp_path, started):
    with mounted(tmp_path / "fixed", "size=100m"):
        path = fresh(tmp_path / "fixed" / "x", **PARAMS)
        if started:
            at = {"where": "training.recorder:Recorder.pause_point", "count": 1}
            assert server.train(path, data, plants=[*PLANTS, ("reach", at)], signals=[(0, 9)]).code == -9
        remount(tmp_path / "fixed", "ro")
        ended = server.train(path, data, plants=PLANTS)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err == f"{path}: cannot be written (Read-only file system); choose a writable folder\n"
