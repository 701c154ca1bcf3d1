"""What a search adds to its trainings, and what a second slot gains: ratios measured in one run.

python bench/search.py --data_dir data/digits

Start-up is the time from asking for a training to its first step: for one, from the start of train.py; in a slot of a
search, from the start of search_hyperparams.py, then each time from the end of the training before. Of a search it is
the sum over the trainings of a slot, the mean over the slots. All are true trainings of a small net. The machine should
have nothing else to do.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent

PARAMS = json.loads((ROOT / "experiments/digits/params.json").read_text()) | {"num_epochs": 2, "early_stopping": None}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # one slot is to use every core
FIRST_STEP, END = "conv on ", ": finished, best"  # what train.log says then


def run(script: str, folder: Path, params: dict[str, Any], options: Sequence[str]) -> tuple[float, float]:
    """Runs a script in a new folder; returns when it was started and when it ended, in seconds of the clock."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(params))
    environment = {name: value for name, value in os.environ.items() if name not in THREADS}
    start = time.time()
    done = subprocess.run([sys.executable, script, *options], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{script} {' '.join(options)}: {done.stderr or done.stdout[-500:]}")
    return start, time.time()


def said(folder: Path, words: str) -> float:
    """When a training first said something, in seconds of the clock."""
    line = next(line for line in (folder / "train.log").read_text().splitlines() if words in line)
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()


def one_training(data_dir: Path, out: Path) -> float:
    """Start-up seconds of one training."""
    folder = out / "one"
    start, _ = run("train.py", folder, PARAMS, ["--data_dir", str(data_dir), "--model_dir", str(folder)])
    return said(folder, FIRST_STEP) - start


def search(data_dir: Path, out: Path, trials: int, jobs: int) -> tuple[float, float]:
    """Seconds of a search, and those of start-up in each of its slots."""
    folder = out / f"{jobs}_slots"
    params = PARAMS | {"hyper_search": {"learning_rate": [round(0.001 + i / 10_000, 4) for i in range(trials)]}}
    options = ["--data_dir", str(data_dir), "--parent_dir", str(folder), "--jobs", str(jobs)]
    start, end = run("search_hyperparams.py", folder, params, options)
    folders = [log.parent for log in folder.glob("*/train.log")]
    begun, ended = (sorted(said(path, words) for path in folders) for words in (FIRST_STEP, END))
    asked = [*[start] * jobs, *ended]  # the first to end makes room for the next, whichever slot it was in
    return end - start, sum(first - before for first, before in zip(begun, asked, strict=False)) / jobs


def measure(data_dir: Path, out: Path, trials: int) -> dict[str, float]:
    """Everything once, as the table's rows."""
    one = one_training(data_dir, out)
    single, startup = search(data_dir, out, trials, 1)
    double, startup_of_two = search(data_dir, out, trials, 2)
    return {
        "start-up of one training, s": one,
        f"start-up of {trials} trainings in 1 slot, s": startup,
        f"start-up of {trials} trainings in 2 slots, s": startup_of_two,
        "start-up, the search in 1 slot to one training": startup / one,
        "start-up, the search in 2 slots to one training": startup_of_two / one,
        "the search in 1 slot, s": single,
        "the search in 2 slots, s": double,
        "trainings an hour, 2 slots to 1 slot": single / double,
    }


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "build/search")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3, help="of everything; the medians count")
    options = parser.parse_args()
    rounds = []
    for number in range(options.repeats):
        rounds.append(measure(options.data_dir.resolve(), options.out.resolve(), options.trials))
        sys.stderr.write(f"round {number + 1}: {', '.join(f'{value:.2f}' for value in rounds[-1].values())}\n")
    columns = {name: [found[name] for found in rounds] for name in rounds[0]}
    rows = [[name, f"{statistics.median(c):.2f}", f"{min(c):.2f} to {max(c):.2f}"] for name, c in columns.items()]
    print(tabulate(rows, ["", "median", "range"], tablefmt="github", disable_numparse=True))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
