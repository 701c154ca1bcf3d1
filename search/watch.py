"""The state of a search, or of any set of experiments, as it changes: read from the folders alone. Never writes."""

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np

from config import run_folder
from search.collect import Comparison, collect, value_of
from search.read import Run, lock_is_free
from search.terminal import Redrawn
from search.words import caption, duration
from utils import printable

LONGEST_BOARD: Final = 10  # settings of a leader board
REFRESH_SECONDS: Final = 2.0
READING_SHARE: Final = 10  # of thousands of folders the reading itself takes seconds; then it waits longer


def watch(parent_dir: Path | str, metric: str | None = None) -> None:
    """Shows the running trainings and the best settings until nothing runs any more.

    Off a terminal, only when the state of a training has changed.

    Args:
        parent_dir: the folder.
        metric: to rank by; None for what a search there asks for, else for what most runs kept their best epoch by.

    Raises:
        UserError: when there is no such folder, or no experiment in it.
    """
    screen, before = Redrawn(), Counter[str]()
    while True:
        start = time.monotonic()
        searching = not lock_is_free(Path(parent_dir) / run_folder.LOCK)
        comparisons = collect(parent_dir, metric)
        states = Counter(run.state for comparison in comparisons for run in comparison.runs)
        over = not searching and not states["running"]
        lines = board(Path(parent_dir), comparisons)
        if sys.stdout.isatty() and not over:
            screen.draw(lines)
        elif over or states != before:
            screen.clear()
            sys.stdout.write("".join(f"{line}\n" for line in lines))
            sys.stdout.flush()
        if over:
            return
        before = states
        time.sleep(max(REFRESH_SECONDS, READING_SHARE * (time.monotonic() - start)))


def board(parent: Path, comparisons: list[Comparison]) -> list[str]:
    """What there is to see, line by line: how many are where, each running training, the best settings."""
    runs = [run for comparison in comparisons for run in comparison.runs]
    states = Counter(run.state for run in runs)
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    lines = [f"{printable(str(parent))}: {counts}"]
    running = [run for run in runs if run.state == "running"]
    width = max((len(run.name) for run in running), default=0)
    lines += [f"  {printable(run.name):<{width}}  {_progress(run)}" for run in running]
    for comparison in comparisons:
        data = f", data {comparison.fingerprint[:12]}" * (len(comparisons) > 1)
        if comparison.settings:
            lines += [f"best {comparison.metric}{data}", *_leaders(comparison)]
    return lines


def _progress(run: Run) -> str:
    epochs = int(value_of(run, "num_epochs"))
    told = [f"epoch {run.epochs}/{epochs}"]
    if run.epochs:
        told += [f"{name} {values[-1]:.4f}" for name, values in run.valid.items()]
        pace = run.seconds / run.epochs
        told += [f"{pace:.3g} s/epoch", f"{duration(pace * (epochs - run.epochs))} left"]
    return "  ".join(told)


def _leaders(comparison: Comparison) -> list[str]:
    lines = []
    for rank, setting in enumerate(comparison.settings[:LONGEST_BOARD], 1):
        scores = list(setting.by_seed(lambda run: run.score(comparison.metric)).values())
        spread = f" ± {np.std(scores, ddof=1):.4f}" if len(scores) > 1 else ""
        lines.append(f"{rank:>4}  {np.mean(scores):.4f}{spread}  {caption(setting)}")
    return lines
