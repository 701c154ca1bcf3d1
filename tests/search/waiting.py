"""What tests wait for while searches run in processes of their own."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

SECONDS = 200.0


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.05)


def states(parent: Path, names: Sequence[str]) -> str:
    """The first letter of each trial's state, - before it has any."""
    files = [parent / name / "status.json" for name in names]
    return "".join(json.loads(file.read_text())["state"][0] if file.exists() else "-" for file in files)


def epochs(parent: Path, name: str) -> int:
    """How many a stand-in has finished."""
    path = parent / name / "checkpoint.pt"
    return len(json.loads(path.read_text())) if path.exists() else 0


def times_finished(parent: Path, names: Sequence[str]) -> list[str]:
    """What the stand-ins left at their ends: "once" each."""
    return [(parent / name / "finished.txt").read_text() for name in names]
