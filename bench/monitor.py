"""What it costs to watch a training ("monitor": 1), as a ratio of the times of epochs with and without.

python -m bench.monitor --data_dir data/digits --params experiments/digits/params.json

One training, in which every other epoch is watched at the default interval, or at another one that --set gives. The
ratio is that of the medians; processor time is told too, as other programs on the machine change it less.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

import train
from bench.checkpoint_cost import ROOT, Seconds, around, now
from config import run_folder
from training import loop
from training.monitor_plots import Pictures


def main() -> int:
    """Trains, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--params", type=Path, default=ROOT / "experiments/fashion_mnist_conv/params.json")
    parser.add_argument("--out", type=Path, default=ROOT / "build/monitor")
    parser.add_argument("--pairs", type=int, default=5, help="epochs of each kind")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    own = {"num_epochs": 2 * options.pairs, "monitor": True, "early_stopping": None}
    (options.out / "params.json").write_text(json.dumps(json.loads(options.params.read_text()) | own))

    drawn: list[Seconds] = []
    epochs: list[tuple[bool, Seconds]] = []
    around(Pictures, "draw", drawn.append)
    original = loop.train_epoch

    def alternating(parts: Any, state: Any, recorder: Any) -> Any:
        interval, watched = parts.monitor.interval, state.epoch % 2 == 1
        parts.monitor.interval = interval if watched else 0
        start = now()
        result = original(parts, state, recorder)
        epochs.append((watched, now() - start))
        parts.monitor.interval = interval
        return result

    loop.train_epoch = alternating
    overrides = [word for override in options.overrides for word in ("--set", override)]
    if code := train.main(["--data_dir", str(options.data_dir), "--model_dir", str(options.out), *overrides]):
        return code
    with_, without = (np.array([seconds for kind, seconds in epochs if kind is watched]) for watched in (True, False))
    looks = len(dict(np.load(options.out / run_folder.MONITOR))["step"])
    rows = [
        [clock, f"{np.median(without[:, i]):.2f}", f"{np.median(with_[:, i]):.2f}",
         f"{np.median(with_[:, i]) / np.median(without[:, i]):.3f}"]
        for i, clock in enumerate(("clock", "processor"))
    ]  # fmt: skip
    pictures = np.median(drawn, axis=0)
    print(f"{len(with_)} epochs of each kind, {looks} looks; load {os.getloadavg()[0]:.1f}; "  # noqa: T201
          f"the pictures take {pictures[0]:.2f} s, {pictures[1]:.2f} s of the processor\n")  # fmt: skip
    print(tabulate(rows, ["seconds by", "without", "watched", "ratio"], tablefmt="github", disable_numparse=True))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
