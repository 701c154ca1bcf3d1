"""Is it the best, or lucky? The combination that leads is trained with more seeds."""

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from config import run_folder
from config.space import Combination
from search import jobs, plan
from search.layout import make_folder
from search.plan import Plan, Trial, confirmation
from utils import UserError, log


def to_confirm(search: Plan, seeds: int) -> tuple[Trial, ...]:
    """The trainings of the leading combination with so many seeds; their folders are made.

    It leads by the mean over all its seeds, those of an earlier confirmation too, as in the table. So when a
    confirmation shows that it was luck, the next one is of whatever leads then.

    Raises:
        UserError: when no trial has finished, or when each is one of several seeds already.
    """
    if any("seed" in axis.names for axis in search.axes):
        raise UserError(
            f"{search.parent.params}: hyper_search lists seed, so the best of it is a seed; "
            "for --confirm, search with search.seeds instead"
        )
    scores = defaultdict[str, list[float]](list)
    for path in _finished(search.parent.path):
        value = jobs.score(path, search.metric)
        if value == value:
            scores[_key(plan.about(path)["values"])].append(value)
    combinations: dict[str, Combination] = {_key(trial.combination): trial.combination for trial in search.trials}
    led = [key for key in combinations if key in scores]
    if not led:
        raise UserError(f"{search.parent.path}: no trial has finished yet; --confirm takes the best one")
    sign = 1 if search.greater else -1
    best = max(led, key=lambda key: sign * statistics.fmean(scores[key]))
    trials = confirmation(search, combinations[best], seeds)
    for trial in trials:
        if not (plan.about(trial.path) and (trial.path / run_folder.PARAMS).is_file()):
            make_folder(search, trial, confirm=True)
    log.info("confirming %s with %d seeds", trials[0].name, seeds)
    return trials


def _finished(parent: Path) -> list[Path]:
    """The folders of all finished trials, those of confirmations too."""
    folders = sorted(path.parent for path in parent.glob(f"*/{run_folder.SEARCH}"))
    return [path for path in folders if plan.about(path) and jobs.look(path).state == "finished"]


def _key(values: Any) -> str:
    return json.dumps(values, sort_keys=True)
