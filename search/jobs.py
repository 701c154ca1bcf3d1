"""What a trial's folder says: whether it is to be trained, how far it is, how good it is."""

import contextlib
import math
from pathlib import Path
from typing import Any, Final, NamedTuple

from config import run_folder
from config.run_folder import RunFolder
from search import plan
from search.launchers import Ended
from search.read import lock_is_free
from utils import UserError, printable, read_json, to_json, write_atomic

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
        if not lock_is_free(path / run_folder.LOCK):
            state = "running"
        elif state == "running":
            state = "lost"
    return Look(state, str(status.get("reason") or ""), str(status.get("message") or ""))


def to_train(path: Path, retries: int) -> bool:
    """Whether a trial is to be trained, or trained on."""
    seen = look(path)
    if seen.state == "failed":
        return seen.reason not in NEVER_RETRIED and plan.about(path).get("retried", 0) < retries
    request = _stop_request(path)
    if request is None or "by" not in request:  # nobody asked, or a person did
        return seen.state in ("queued", "lost", "running") or (seen.state == "stopped" and request is None)
    return seen.state == "running" or (seen.state != "finished" and not _reached(path, request))


# --- ending early ----------------------------------------------------------------------------------------------------


def end_after(path: Path, epoch: int, by: str) -> None:
    """Has a trial end as pruned after an epoch.

    Args:
        path: the trial's folder.
        epoch: from this one on, at an epoch's end.
        by: the name of the pruner.
    """
    write_atomic(path / run_folder.STOP, to_json({"state": "pruned", "epoch": epoch, "by": by}))


def let_go_on(path: Path) -> None:
    """Takes back what a pruner asked of a trial."""
    if "by" in (_stop_request(path) or {}):
        if look(path).state == "pruned":
            RunFolder(path).set_state("stopped")  # it is to be trained on, whoever looks next
        (path / run_folder.STOP).unlink()


def asked_by_a_person(path: Path) -> bool:
    """Whether a stop.json is there that is no pruner's."""
    request = _stop_request(path)
    return request is not None and "by" not in request


def paused(path: Path) -> bool:
    """Whether a pruner ended a trial where it can go on from."""
    request = _stop_request(path) or {}
    ended = look(path).state in ("pruned", "stopped", "lost")
    return ended and "by" in request and _reached(path, request) and (path / run_folder.CHECKPOINT).is_file()


def settle(path: Path) -> None:
    """Writes into status.json that a trial was pruned where it was killed before it could; it ended when it did."""
    request = _stop_request(path) or {}
    if "by" in request and look(path).state in ("stopped", "lost") and _reached(path, request):
        folder = RunFolder(path)
        folder.set_state("pruned", reason=None, message=None, updated=folder.status().get("updated"))


def epochs(path: Path) -> int:
    """How many epochs of a trial have ended."""
    try:
        return len(read_json(path / run_folder.HISTORY)["epochs"])
    except (UserError, LookupError, TypeError):
        return 0


def _reached(path: Path, request: dict[str, Any]) -> bool:
    return epochs(path) >= int(request.get("epoch", 0))


def _stop_request(path: Path) -> dict[str, Any] | None:
    """What stop.json holds; None when there is none."""
    try:
        found = read_json(path / run_folder.STOP)
    except UserError:
        return {} if (path / run_folder.STOP).exists() else None
    return found if isinstance(found, dict) else {}


def take_note(path: Path, ended: Ended) -> None:
    """Writes a trial's failure into status.json where train.py itself could not."""
    refused = ended.oom or (0 < ended.code < 128 and ended.code != 3)
    if refused and look(path).state not in ("failed", "finished", "pruned", "running"):
        lines = ended.errors.strip().splitlines() or ["it ended without a word"]
        reason = "oom" if ended.oom else "invalid" if ended.code == 2 else "error"
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
