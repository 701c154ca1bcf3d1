"""Small trainings for tests, and what of them must be equal."""

import json
from pathlib import Path
from typing import Any

from config import run_folder

SMALL = {
    "arch": "conv",
    "pretrain": 0,
    "im_sz": 16,
    "batch_size": 8,
    "learning_rate": 0.01,
    "num_epochs": 3,
    "num_workers": 0,
    "cuda": 0,
    "precision": "fp32",
    "cache": "memory",
    "average_epochs": 2,
    "save_summary_steps": 1,
}
TIMES = ("seconds", "images_per_second", "memory_mb")


def experiment(path: Path, **changes: object) -> Path:
    """An experiment folder with SMALL's params and these changes."""
    path.mkdir(parents=True)
    (path / run_folder.PARAMS).write_text(json.dumps(SMALL | changes))
    return path


def history(path: Path) -> dict[str, Any]:
    """history.json without what depends on the machine's mood."""
    found: dict[str, Any] = json.loads((path / run_folder.HISTORY).read_text())
    for row in found["epochs"]:
        for key in TIMES:
            row.pop(key)
    return found


def outcome(path: Path) -> dict[str, Any]:
    """Everything that must be equal between two runs of the same params."""
    names = [run_folder.weights_name(kind) for kind in run_folder.WEIGHTS]
    names += [run_folder.metrics_name("valid", kind) for kind in run_folder.WEIGHTS]
    names += [run_folder.PREDICTIONS_VALID]
    return {name: (path / name).read_bytes() for name in names} | {"history": history(path)}
