"""One call of search_hyperparams.py: the plan, the trials, the tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import include
from config.run_folder import RunFolder
from search import jobs, layout, pruners
from search.clusters import Cluster
from search.confirm import to_confirm
from search.engine import Engine
from search.launchers import Ahead, Environment, Launcher, Server, threads_per_slot
from search.layout import lay_out
from search.plan import Plan, make_plan
from search.plots import write_plots
from search.samplers import SAMPLERS
from search.table import write_results
from training.signals import Signals
from utils import UserError, log, logging_to

LOG: Final = "search.log"


@dataclass(frozen=True)
class Options:
    """How trials are run.

    Attributes:
        slots: the environment of each trial that may run at the same time.
        spawn: start trials as new programs.
        extend: new combinations may come to a search that has begun.
        retry_failed: train failed trials anew.
        confirm: train the best combination with so many seeds; None: train the trials.
        cluster: where the trials run; None: on this machine, in the slots.
        ahead: a server that was started before the plan.
    """

    slots: Sequence[Environment]
    spawn: bool = False
    extend: bool = False
    retry_failed: bool = False
    confirm: int | None = None
    cluster: Cluster | None = None
    ahead: Ahead | None = None


def run(parent_dir: Path, data_dir: Path, overrides: Sequence[str], options: Options) -> int:
    """Searches, or continues a search.

    Args:
        parent_dir: the folder with hyper_search in its params.json.
        data_dir: data/<name> with train/ and valid/.
        overrides: `search.trials=40` each.
        options: how trials are run.

    Returns:
        The exit code: 0, or 1 when a trial failed.

    Raises:
        UserError: bad input, or the first trials all fail alike. BusyError: the search runs already.
        Interrupted: by a signal, after the trials have saved what they have; the same call continues.
    """
    if not data_dir.is_dir():
        raise UserError(f"{data_dir}: no such folder; the layout is data/<name>/train/<class>/<images>")
    parent = RunFolder(parent_dir)
    parent.lock()  # before the plan, which an adaptive search reads from the folders
    try:
        search = make_plan(parent.path, overrides)
        pruners.make(search)  # one that judges nothing is refused before a folder is made
        with logging_to(parent.file(LOG)):
            signals = Signals(f"{parent.path}: stopped; the same command goes on")
            with signals, signals.held():
                return _run(search, data_dir, options, signals)
    finally:
        parent.unlock()


def _run(search: Plan, data_dir: Path, options: Options, signals: Signals) -> int:
    lay_out(search, extend=options.extend, retry_failed=options.retry_failed)
    trials = search.trials if options.confirm is None else to_confirm(search, options.confirm)
    if options.retry_failed:
        layout.clear(trials)
    total = search.total if trials is search.trials else len(trials)
    slots, at_a_time, launch = _place(search, options, total)
    log.info("%s: %d trainings, %s at a time", search.parent.path, total, at_a_time)

    try:
        Engine(search, data_dir, slots, launch, signals).run(trials)
    finally:
        _write_tables(search)
    failed = [trial for trial in trials if jobs.look(trial.path).state == "failed"]
    if failed:
        log.info("%d of %d trainings failed; --retry_failed trains them anew", len(failed), len(trials))
    return include.SOME_FAILED if failed else include.DONE


def _place(search: Plan, options: Options, total: int) -> tuple[Sequence[Environment], str, Callable[[], Launcher]]:
    """The slots, how many trainings run at the same time, and what makes the launcher."""
    cluster = options.cluster
    if cluster is None:
        slots = options.slots[:total]
        threads, ahead = threads_per_slot(len(slots)), options.ahead
        return slots, str(len(slots)), lambda: (ahead and ahead.take(threads)) or Server(threads, spawn=options.spawn)
    adaptive = search.settings.method in SAMPLERS
    handed_over = cluster.at_once(total, adaptive=adaptive, pruned=search.settings.pruner is not None)
    at_a_time = str(cluster.jobs) if cluster.jobs else f"as many as {cluster.engine} has room for"
    return [{}] * handed_over, at_a_time, lambda: cluster.launcher(search.parent.path)


def _write_tables(search: Plan) -> None:
    """results.md and results.csv, and the plots."""
    write_results(search.parent.path, search.metric)
    write_plots(search.parent.path, search.metric)
