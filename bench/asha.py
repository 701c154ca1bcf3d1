"""Asynchronous successive halving against the whole grid: the best accuracy each finds, and the epochs each takes.

python bench/asha.py --data_dir data/cifar10

Both are searches over the same learning rates and dropout probabilities, on a fixed part of the images, by
search_hyperparams.py. What has been trained is kept, so the same command goes on where it was stopped. Printed are the
epochs of both, and the accuracy of both on the validation split with Wilson's 95% interval.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tabulate import tabulate

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.part import part  # noqa: E402
from reports.intervals import wilson  # noqa: E402
from utils import reports_errors  # noqa: E402

PARAMS: Final[dict[str, Any]] = {
    "arch": "conv", "pretrain": 0, "im_sz": 16, "crop_fraction": 1.0, "num_epochs": 9, "batch_size": 64, "ps": 0.5,
    "learning_rate": 0.001, "augment": ["horizontal_flip"], "threads": 1, "average_epochs": 1, "seed": 0,
    "hyper_search": {"learning_rate": [0.0003, 0.001, 0.003, 0.01], "ps": [0.0, 0.25, 0.5, 0.75]},
}  # fmt: skip
SEARCHES: Final[dict[str, dict[str, Any]]] = {"asha": {"pruner": {"name": "asha", "grace": 1}}, "grid": {}}


def search(folder: Path, data: Path, settings: dict[str, Any], jobs: int) -> None:
    """Runs a search, or what is left of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(PARAMS | {"search": settings}, indent=2))
    command = ["search_hyperparams.py", "--data_dir", data, "--parent_dir", folder, "--gpus", "cpu", "--jobs", jobs]
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True)


def found(folder: Path, images: int) -> dict[str, Any]:
    """What a search found, and what it took."""
    histories = {path.parent: json.loads(path.read_text())["epochs"] for path in folder.glob("*/history.json")}
    finished = {
        path: max(row["valid"]["accuracy"] for row in rows)
        for path, rows in histories.items()
        if json.loads((path / "status.json").read_text())["state"] == "finished"
    }
    best = max(finished, key=lambda path: (finished[path], path.name))
    low, high = wilson(round(finished[best] * images), images)
    return {
        "search": folder.name, "combinations": len(histories), "to the end": len(finished),
        "epochs": sum(map(len, histories.values())),
        "seconds": sum(row["seconds"] for rows in histories.values() for row in rows),
        "best": best.name, "accuracy": finished[best], "low": low, "high": high,
    }  # fmt: skip


def equal(one: Path, other: Path) -> str:
    """How many trials that the first brought to their ends have the other's numbers in every epoch."""
    both = []
    for path in one.glob("*/status.json"):
        if json.loads(path.read_text())["state"] == "finished":
            files = (path.parent / "history.json", other / path.parent.name / "history.json")
            first, second = (json.loads(file.read_text())["epochs"] for file in files)
            both.append(
                [(row["train"], row["valid"]) for row in first] == [(row["train"], row["valid"]) for row in second]
            )
    return f"{sum(both)} of {len(both)}"


@reports_errors
def main() -> int:
    """Runs both searches and prints what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="data/cifar10")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "asha", help="where both are kept")
    parser.add_argument("--train", type=int, default=2000, help="images to train on")
    parser.add_argument("--valid", type=int, default=1000, help="images to validate on")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time")
    options = parser.parse_args()
    data = options.out / "data"
    options.out.mkdir(parents=True, exist_ok=True)
    part(options.data_dir, data, {"train": options.train, "valid": options.valid})
    for name, settings in SEARCHES.items():
        search(options.out / name, data, settings, options.jobs)
    asha, grid = (found(options.out / name, options.valid) for name in SEARCHES)
    print(tabulate([grid, asha], headers="keys", floatfmt=".4f"))  # noqa: T201
    ratio = asha["epochs"] / grid["epochs"]
    within = grid["low"] <= asha["accuracy"] <= grid["high"]
    said = "yes" if within else "no"
    print(f"epochs, asha over grid: {ratio:.3f}; within the interval of the grid's best: {said}")  # noqa: T201
    print(f"paused, continued and equal to the grid in every epoch: {equal(*(options.out / n for n in SEARCHES))}")  # noqa: T201
    return 0 if within and ratio <= 1 / 3 else 1


if __name__ == "__main__":
    raise SystemExit(main())
