"""What it costs to write the checkpoint and everything derived from it, as a share of an epoch's time.

python -m bench.checkpoint_cost --data_dir data/fashion_mnist

A true training, with clocks around what it writes at the end of each epoch. A share is the time spent there over the
time of the rest of that epoch, training and validation. Shares of processor time are told too: waiting for the disk is
not in them, but other programs on the machine change them less.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

import train
from bench.interval import with_interval
from training import loop
from training.recorder import Recorder

ROOT = Path(__file__).resolve().parent.parent

Seconds = NDArray[np.float64]  # (2,): by the clock, and of the processor


def now() -> Seconds:
    """The time on both clocks."""
    return np.array([time.perf_counter(), time.process_time()])


def around(owner: Any, name: str, then: Callable[[Seconds], object]) -> None:
    """Tells of every call of a function how long it took."""
    call = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = now()
        result = call(*args, **kwargs)
        then(now() - start)
        return result

    setattr(owner, name, timed)


def clocked() -> list[list[Seconds]]:
    """Lets every training note its epochs: seconds of training, validation, the checkpoint, and all that is written."""
    epochs: list[list[Seconds]] = []
    around(loop, "train_epoch", lambda seconds: epochs.append([seconds]))
    around(loop, "predict", lambda seconds: epochs[-1].append(seconds))
    around(Recorder, "save", lambda seconds: epochs[-1].append(seconds))
    around(Recorder, "epoch_end", lambda seconds: epochs[-1].append(seconds))
    return epochs


def main() -> int:
    """Trains, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--params", type=Path, default=ROOT / "experiments/fashion_mnist_conv/params.json")
    parser.add_argument("--out", type=Path, default=ROOT / "build/checkpoint_cost")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    params = json.loads(options.params.read_text()) | {"num_epochs": options.epochs}
    epochs = clocked()
    for repeat in range(options.repeats):
        folder = options.out / str(repeat)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "params.json").write_text(json.dumps(params | {"seed": repeat}))
        if code := train.main(["--data_dir", str(options.data_dir), "--model_dir", str(folder)]):
            return code
    training, validation, checkpoint, written = np.array(epochs).transpose(1, 2, 0)  # each (2, epochs)
    rest = training + validation
    shares = {"checkpoint": checkpoint, "history, curves, weights": written - checkpoint, "all": written}
    rows = [
        [name, *(with_interval(share, 2) for share in 100 * seconds / rest), f"{(100 * seconds / rest)[0].max():.2f}"]
        for name, seconds in shares.items()
    ]
    size = (folder / "checkpoint.pt").stat().st_size / 2**20
    about = f"{len(epochs)} epochs of {with_interval(rest[0], 2)} s, a checkpoint of {size:.1f} MB"
    header = ["written", "% of an epoch", "% of its processor time", "largest %"]
    print(f"{about}; load {os.getloadavg()[0]:.1f}\n")  # noqa: T201
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
