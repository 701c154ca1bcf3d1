"""Killed at every call that changes a file, and continued by the same command: the same outcome."""

import json
import re
import shutil
import signal
from collections import Counter

import pytest

from tests.faults.server import Plant
from tests.faults.trials import differences, fresh, names, overwrite, sample, told

# Disk cache, moving average, averages of epochs, an early stop after epoch 2 of 3, and plots.
PARAMS = {
    "cache": "disk",
    "ema_decay": 0.9,
    "early_stopping": {"patience": 1, "monitor_metric": "accuracy", "min_delta": 1},
    "scheduler": "constant",
}
PLANTS: tuple[Plant, ...] = (("few_sources", {}), ("small_net", {}), ("draw_seldom", {}))
NO_DRAWING: Plant = ("no_drawing", {})
FLOOR, FLOOR_OF_SAMPLE = 60, 25


@pytest.fixture(scope="module")
def undisturbed(server, data, place):
    """The finished run, and the labels of its boundaries."""
    path = fresh(place / "undisturbed", **PARAMS)
    without_cache(data)
    ended = server.train(
        path, data, plants=[*PLANTS, ("boundaries", {"roots": roots(path, data), "note": str(place / "noted")})]
    )
    assert ended.code == 0, ended.err
    labels = json.loads((place / "noted").read_text())
    assert json.loads((path / "history.json").read_text())["stop"], "it should have stopped early"
    yield path, labels
    shutil.rmtree(path)


def roots(path, data):
    return {"run": str(path), "data": str(data)}


def without_cache(data):
    shutil.rmtree(data / ".cache", ignore_errors=True)


def after_checkpoint(labels):
    """The boundary at which the first epoch is in the checkpoint and nowhere else."""
    return labels.index("replace run/checkpoint.pt") + 2


class Harness:
    def __init__(self, server, data, place, undisturbed):
        self.server, self.data, self.path = server, data, place / "killed"
        self.reference, self.labels = undisturbed
        self.labels_continued = []  # of the run that continues after the kill of note_continued
        self.killed = Counter()
        self.losses = 0  # files and names that went with the power
        self.wrong = []

    def __str__(self):
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.killed.items())
        return f"{kinds}, {self.losses} files and names lost, {len(self.wrong)} different"

    def draws(self, number):
        """Whether a boundary is of the write of a figure; elsewhere the time that drawing takes is saved."""
        return "replace run/train_history.png" in self.labels[max(0, number - 4) : number + 5]

    def kill_at(self, number, lost="", flushing=True, again=0):
        """Kills at a boundary, and the continued run at one of its own; continues, and notes what is wrong then."""
        plants = PLANTS if self.draws(number) else (*PLANTS, NO_DRAWING)
        self._begin_and_kill(number, plants, lost=lost, flushing=flushing)
        label = self.labels[number - 1]
        if again:
            self._kill(again, self.labels_continued, plants)
            label += f", then {again} {self.labels_continued[again - 1]}"
        ended = self.server.train(self.path, self.data, plants=plants)
        if ended.code != 0 and "already finished" not in ended.err:
            found = [f"exit code {ended.code}: {ended.err}"]
        else:
            found = differences(self.path, self.reference)
            found += [name for name in names(self.data) if "building" in name or "dossier-" in name]
        self.wrong += [f"{number} {lost} {label}: {difference}" for difference in found]

    def note_continued(self, number):
        """Kills at a boundary, and notes the boundaries of the run that continues."""
        note, plants = self.path.with_name("noted"), (*PLANTS, NO_DRAWING)
        self._begin_and_kill(number, plants)
        noting = ("boundaries", {"roots": roots(self.path, self.data), "note": str(note)})
        assert self.server.train(self.path, self.data, plants=[*plants, noting]).code == 0
        self.labels_continued = json.loads(note.read_text())

    def _begin_and_kill(self, number, plants, **loss):
        fresh(self.path, **PARAMS)
        without_cache(self.data)
        self._kill(number, self.labels, plants, **loss)

    def _kill(self, number, labels, plants, **loss):
        label, arguments = labels[number - 1], {"roots": roots(self.path, self.data), "number": number} | loss
        killed = self.server.train(self.path, self.data, plants=[*plants, ("killed_at", arguments)])
        at = re.search(rf"{re.escape(label)}: (\d+) lost$", killed.out)
        assert killed.code == -signal.SIGKILL, f"{label}: {killed}"
        assert at, f"{label}: {killed}"
        self.killed["power cut" if loss.get("lost") else "killed"] += 1
        self.losses += int(at[1])


@pytest.fixture
def harness(server, data, place, undisturbed):
    return Harness(server, data, place, undisturbed)


@pytest.mark.slow
def test_the_run_has_all_kinds_of_boundaries(undisturbed, say):
    _, labels = undisturbed
    assert len(labels) >= FLOOR
    touched = {label.split(" ")[-1] for label in labels}
    for name in ("checkpoint.pt", "checkpoint.prev.pt", "manifest.json", "history.json", "train_history.png",
                 "weights_best.safetensors", "weights_averaged.safetensors", "status.json"):  # fmt: skip
        assert f"run/{name}" in touched
    assert {name.split("/")[-1] for name in touched if name.startswith("data/")} >= {"pixels.bin", "store.json"}
    say(f"write boundaries of the run: {len(labels)}")


@pytest.mark.slow
def test_killed_at_some_boundaries(harness, say):
    for number in sample(harness.labels, 26):
        harness.kill_at(number)
    say(f"write boundaries: {harness}")
    assert harness.killed["killed"] >= FLOOR_OF_SAMPLE
    assert not harness.wrong, "\n".join(harness.wrong)


@pytest.mark.slow
def test_killed_again_at_some_boundaries_of_the_continued_run(harness, say):
    first = after_checkpoint(harness.labels)
    harness.note_continued(first)
    for again in sample(harness.labels_continued, 6):
        harness.kill_at(first, again=again)
    say(f"write boundaries of a continued run: {harness}")
    assert harness.killed["killed"] >= 12
    assert not harness.wrong, "\n".join(harness.wrong)


@pytest.mark.slow
def test_power_fails_after_some_renames(harness, say):
    renamed = [number for number, label in enumerate(harness.labels, 1) if label.startswith(("replace", "rename"))]
    for number in renamed[:: len(renamed) // 8]:
        harness.kill_at(number + 1, "names")
    say(f"write boundaries: {harness}")
    assert harness.killed["power cut"] >= 8
    assert harness.losses >= 8
    assert not harness.wrong, "\n".join(harness.wrong)


@pytest.mark.slow
def test_a_program_that_does_not_flush_is_found_out(harness):
    harness.kill_at(len(harness.labels), "data", flushing=False)
    assert harness.wrong


@pytest.mark.campaign
def test_killed_at_every_boundary(harness, say):
    for number in told(range(1, len(harness.labels) + 1), harness, say):
        harness.kill_at(number)
    say(f"write boundaries: {harness}")
    assert harness.killed["killed"] >= FLOOR
    assert not harness.wrong, "\n".join(harness.wrong)


@pytest.mark.campaign
def test_killed_again_at_every_boundary_of_the_continued_run(harness, say):
    first = after_checkpoint(harness.labels)
    harness.note_continued(first)
    for again in told(range(1, len(harness.labels_continued) + 1), harness, say):
        harness.kill_at(first, again=again)
    say(f"write boundaries of a continued run: {harness}")
    assert harness.killed["killed"] >= 2 * FLOOR
    assert not harness.wrong, "\n".join(harness.wrong)


@pytest.mark.campaign
@pytest.mark.parametrize("lost", ["data", "names"])
def test_power_fails_at_every_boundary(harness, lost, say):
    numbers = [number for number, label in enumerate(harness.labels, 1) if "/code/" not in label]
    for number in told(numbers, harness, say):
        harness.kill_at(number, lost)
    say(f"write boundaries, {lost} lost: {harness}")
    assert harness.killed["power cut"] >= FLOOR
    assert harness.losses >= FLOOR
    assert not harness.wrong, "\n".join(harness.wrong)


# --- --overwrite -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_while_results_are_moved_aside_none_is_lost(server, data, place, undisturbed, say):
    reference, _ = undisturbed
    path, note = place / "overwritten", place / "noted"

    def overwritten(plant, arguments):
        plants = [*PLANTS, NO_DRAWING, (plant, {"roots": roots(path, data)} | arguments)]
        return overwrite(server, data, path, reference, plants).code

    assert overwritten("boundaries", {"note": str(note)}) == 0
    moves = [number for number, label in enumerate(json.loads(note.read_text()), 1) if "run/before" in label]
    assert len(moves) >= 20
    for number in moves:
        assert overwritten("killed_at", {"number": number}) == -signal.SIGKILL
    say(f"killed while results are moved aside: {len(moves)}, none lost")
