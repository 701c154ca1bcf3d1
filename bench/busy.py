"""What another busy program costs a training on a CPU: ours, and other programs with their switches on.

python -m bench.busy --data_dir data/imagenette160_small

Every round trains with each loop alone, and beside a program that keeps one core busy from before the start to the end.
Nothing is told to ours: its threads are those that it finds idle (training/threads.py). The medians of the rounds'
ratios count. What still others keep busy makes a measurement void, as in bench.peers.
"""

import argparse
import contextlib
import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tabulate import tabulate

from bench.peers.__main__ import Lines, add_options, installed, job_of, measured, needs_rates, settings_of
from bench.peers.job import Job
from bench.peers.loops import LOOPS, OURS
from bench.peers.table import Line, spread
from utils import reports_errors

BUSY = "while True: pass"
SETTLED = 0.5  # seconds until it is


@contextlib.contextmanager
def busy_program() -> Iterator[None]:
    """Keeps one core busy meanwhile."""
    other = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        time.sleep(SETTLED)
        yield
    finally:
        other.kill()
        other.wait()


def one_round(names: Sequence[str], job: Job, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each loop alone and beside the busy program, void measurements too."""
    for name in names:
        for found in measured(name, job, options):
            yield found | {"busy": False}
        with busy_program():  # as what this process started, it does not make a measurement void
            for found in measured(name, job, options):
                yield found | {"busy": True}


def table(lines: Sequence[Line]) -> str:
    """A row for each loop: alone, beside the program, and the rounds' ratios of the two."""
    rows = []
    for name in LOOPS:
        rates: dict[bool, dict[int, float]] = {False: {}, True: {}}
        for line in lines:
            if line["what"] == name and not line["void"]:
                rates[line["busy"]][line["seed"]] = line["images_per_second"]
        alone, beside = rates[False], rates[True]
        if both := sorted(alone.keys() & beside.keys()):
            medians = [f"{statistics.median(of[seed] for seed in both):.1f}" for of in (alone, beside)]
            rows.append([name, *medians, spread([beside[seed] / alone[seed] for seed in both]), len(both)])
    header = ["", "alone, images/s", "beside a busy program", "to alone", "n"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Measures and prints the lines and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    peers = [name for name in LOOPS if name != OURS]
    parser.add_argument("--peers", nargs="+", default=["torchvision tuned"], choices=peers)
    options = parser.parse_args(argv)
    needs_rates(parser, options)
    job = job_of(options)
    lines = Lines(options.json, settings_of(job) | {"busy": BUSY})
    names = [OURS, *installed(options.python, options.peers)]
    before = max((line["seed"] + 1 for line in lines), default=0)
    for seed in range(before, before + options.rounds):
        for line in one_round(names, dataclasses.replace(job, seed=seed), options):
            lines.add(line)
    print(f"\n{table(lines)}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
