"""What a trial's folder says: whether it is to be trained, how far it is, how good it is."""

import contextlib
import fcntl
import math
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

from config import run_folder
from config.run_folder import RunFolder
from search import plan
from search.launchers import Ended
from utils import UserError, printable, read_json

NEVER_RETRIED: Final = ("oom", "invalid", "diverged")  # would only happen again


class Look(NamedTuple):
    """A trial's folder at a moment.

    Attributes:
        state: as in status.json; or "lost": it says running, but nobody trains it.
        reason: why it failed or stopped.
        message: the same for a person.
    """

    state: str
    reason: str
    message: str


def look(path: Path) -> Look:
    """Reads a trial's state."""
    try:
        status = RunFolder(path).status()
    except UserError:  # damaged: the training puts it right
        status = {}
    state = str(status.get("state", "queued"))
    if state not in ("finished", "pruned"):
        if _locked(path):
            state = "running"
        elif state == "running":
            state = "lost"
    return Look(state, str(status.get("reason") or ""), str(status.get("message") or ""))


def to_train(path: Path, retries: int) -> bool:
    """Whether a trial is to be trained, or trained on."""
    seen = look(path)
    if seen.state == "failed":
        return seen.reason not in NEVER_RETRIED and plan.about(path).get("retried", 0) < retries
    if seen.state == "stopped":
        return not (path / run_folder.STOP).exists()
    return seen.state in ("queued", "lost", "running")


def take_note(path: Path, ended: Ended) -> None:
    """Writes a trial's failure into status.json where train.py itself could not."""
    refused = 0 < ended.code < 128 and ended.code != 3
    if refused and look(path).state not in ("failed", "finished", "pruned", "running"):
        lines = ended.errors.strip().splitlines() or ["it ended without a word"]
        reason = "invalid" if ended.code == 2 else "error"
        fail(path, reason, printable(lines[0 if ended.code == 2 else -1]))


def fail(path: Path, reason: str, message: str) -> None:
    """Leaves a trial as failed."""
    RunFolder(path).set_state("failed", reason=reason, message=message)


def progress_mark(path: Path) -> int:
    """What changes whenever a trial gets further: the time of its checkpoint."""
    with contextlib.suppress(OSError):
        return (path / run_folder.CHECKPOINT).stat().st_mtime_ns
    return 0


def last_epoch(path: Path) -> dict[str, Any]:
    """The last row of a trial's history; empty before there is one."""
    try:
        return dict(read_json(path / run_folder.HISTORY)["epochs"][-1])
    except (UserError, LookupError, TypeError):
        return {}


def score(path: Path, metric: str) -> float:
    """A finished trial's metric on the validation split, with its best weights; nan when there is none."""
    try:
        found = read_json(path / run_folder.metrics_name("valid", "best"))[metric]
    except (UserError, LookupError, TypeError):
        return math.nan
    return float(found) if isinstance(found, int | float) else math.nan


def drop_weights(path: Path) -> None:
    """Removes a finished trial's weights and checkpoints; everything a table or a plot needs stays."""
    names = [*map(run_folder.weights_name, run_folder.WEIGHTS), run_folder.CHECKPOINT, run_folder.CHECKPOINT_PREVIOUS]
    for name in names:
        (path / name).unlink(missing_ok=True)


def _locked(path: Path) -> bool:
    """Whether a process trains there."""
    try:
        descriptor = os.open(path / run_folder.LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
