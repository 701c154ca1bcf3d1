"""What a search will train: its trials, named and checked."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import run_folder, strict_json
from config.load import load_params
from config.parts import Search
from config.run_folder import RunFolder
from config.schema import FREE_KEYS, Params
from config.space import (
    Axis,
    Combination,
    belongs,
    child_params,
    probes,
    read_axes,
    same,
    trial_name,
    wrong_combinations,
)
from model.metric import greater_is_better
from search import samplers
from search.samplers import SAMPLERS
from search.starting_weights import missing, starting_weights
from search.strategies import STRATEGIES
from utils import UserError, printable, read_json, to_json, write_atomic


@dataclass(frozen=True)
class Trial:
    """One training of a search.

    Attributes:
        number: its place in the order of training, from 1.
        path: its folder.
        combination: its values.
        seed: 1 for the first training of the combination, 2 for the next.
        params: what its params.json holds.
    """

    number: int
    path: Path
    combination: Combination
    seed: int
    params: dict[str, Any]

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.path.name


@dataclass(frozen=True)
class Plan:
    """A search.

    Attributes:
        parent: the folder with hyper_search in its params.json.
        params: the parent's, checked.
        settings: how hyper_search is gone through.
        base: what each trial's params.json holds but for its own values.
        axes: what is searched.
        trials: in the order in which they are trained: all combinations once before any a second time. Of an adaptive
            search those that have a folder, one combination after the other; `add` appends to them.
    """

    parent: RunFolder
    params: Params
    settings: Search
    base: Mapping[str, Any]
    axes: tuple[Axis, ...]
    trials: list[Trial]

    @property
    def metric(self) -> str:
        """What combinations are compared by."""
        return self.settings.metric or self.params.best_metric

    @property
    def greater(self) -> bool:
        """Whether more of the metric is better."""
        return greater_is_better(self.metric)

    @property
    def to_come(self) -> int:
        """How many combinations an adaptive search has yet to propose."""
        adaptive = self.settings.method in SAMPLERS
        return max(self.settings.trials - len(self.trials) // self.settings.seeds, 0) if adaptive else 0

    @property
    def total(self) -> int:
        """How many trainings there are to be."""
        return len(self.trials) + self.to_come * self.settings.seeds

    @functools.cached_property
    def digest(self) -> str:
        """Of what decides which trials there are, and what they train."""
        parts: list[Any] = [decisive(trial.params) for trial in self.trials]
        if self.settings.method in SAMPLERS:
            base = {key: value for key, value in self.base.items() if key != "search"}
            parts = [decisive(base), self.settings.model_dump(include={"method", "trials", "seeds", "seed"})]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def decisive(params: Mapping[str, Any]) -> dict[str, Any]:
    """Without what changes no result."""
    return {key: value for key, value in params.items() if key not in FREE_KEYS | {"$schema"}}


def make_plan(parent_dir: Path, overrides: Sequence[str] = ()) -> Plan:
    """Reads a search's params.json and names every trial; writes nothing.

    Args:
        parent_dir: the folder.
        overrides: `search.trials=40` each.

    Raises:
        UserError: one line per mistake in the file, or in a trial that would follow from it.
    """
    parent = RunFolder(parent_dir)
    params = load_params(parent.params, overrides)
    settings = params.search or Search()
    base = strict_json.read(parent.params).value
    axes = read_axes(base, printable(str(parent.params)), grid=settings.method == "grid")
    if problem := _contradiction(settings, [name for axis in axes for name in axis.names]):
        raise UserError(f"{parent.params}: {problem}; keep one of them")
    metric = settings.metric or params.best_metric
    if metric != params.best_metric:
        base = base | {"best_metric": metric}  # the weights that a trial keeps are those it is judged by
    if settings.weights is not None:
        base = base | {"pretrain": _weights(parent.path, settings.weights, metric)}
    if settings.method in SAMPLERS:
        samplers.check(settings.method, axes)
        combinations = _proposed(parent.path, axes, base)[: settings.trials]
        examined = probes(axes, base)
    else:
        combinations = examined = STRATEGIES[settings.method](axes, base, settings)
    if problems := wrong_combinations(parent.params, examined):
        raise UserError("\n".join(problems))
    search = Plan(parent, params, settings, base, axes, [])
    seeds = range(1, settings.seeds + 1)
    if settings.method in SAMPLERS:
        append(search, [(combination, seed) for combination in combinations for seed in seeds])
    else:
        append(search, [(combination, seed) for seed in seeds for combination in combinations])
    begun = {trial.path for trial in search.trials if about(trial.path)}  # these had their weights
    if problems := missing(trial.params.get("pretrain") for trial in search.trials if trial.path not in begun):
        raise UserError("\n".join(f"{printable(str(parent.params))}: {problem}" for problem in problems))
    return search


def confirmation(plan: Plan, combination: Combination, seeds: int) -> tuple[Trial, ...]:
    """The trainings of one combination with so many seeds: the plan's, as far as it has them, and more."""
    known = {trial.seed: trial for trial in plan.trials if same(trial.combination, combination)}
    digest = known[1].name != trial_name(combination, 1)
    return tuple(
        known.get(seed)
        or Trial(len(plan.trials) + seed, plan.parent.path / trial_name(combination, seed, digest=digest), combination,
                 seed, child_params(plan.base, combination, seed))
        for seed in range(1, seeds + 1)
    )  # fmt: skip


def _contradiction(settings: Search, searched: Sequence[str]) -> str | None:
    if settings.seeds > 1 and "seed" in searched:
        return "hyper_search lists seed, and search asks for more seeds"
    if settings.weights is not None and "pretrain" in searched:
        return "hyper_search lists pretrain, and search asks for weights"
    return None


def append(search: Plan, wanted: Sequence[tuple[Combination, int]]) -> list[Trial]:
    """More trials, each with its combination and seed, and a folder whose name no other has."""
    first, taken = len(search.trials), {trial.name.casefold() for trial in search.trials}
    for combination, seed in wanted:
        name = trial_name(combination, seed)
        if name.casefold() in taken:
            name = trial_name(combination, seed, digest=True)
        taken.add(name.casefold())
        params = child_params(search.base, combination, seed)
        search.trials.append(Trial(len(search.trials) + 1, search.parent.path / name, combination, seed, params))
    return search.trials[first:]


def _proposed(parent: Path, axes: Sequence[Axis], base: Mapping[str, Any]) -> list[Combination]:
    """The combinations that have a folder and belong to the search, in the order in which they were proposed."""
    known = [record for path in children(parent) if (record := about(path)) and not record.get("confirm")]
    found: list[Combination] = []
    for record in sorted(known, key=lambda record: record["trial"]):
        if belongs(record["values"], axes, base) and record["values"] not in found:
            found.append(record["values"])
    return found


def _weights(parent: Path, asked: str, metric: str) -> str:
    """The weights that every trial starts from: those of the first start, where it asked for the same."""
    for path in children(parent):
        record = about(path).get("weights")
        if record and record["asked"] == asked:
            return str(record["taken"])
    return starting_weights(asked, metric)


# --- what the folders say --------------------------------------------------------------------------------------------


def about(path: Path) -> dict[str, Any]:
    """A trial's search.json; empty where there is none of a search."""
    found = read_json(path / run_folder.SEARCH) if (path / run_folder.SEARCH).is_file() else None
    return found if isinstance(found, dict) and {"trial", "values", "spec"} <= found.keys() else {}


def count_retry(path: Path) -> None:
    """Notes that a trial is tried once more; from then on it waits, whoever looks next."""
    known = about(path)
    write_atomic(path / run_folder.SEARCH, to_json(known | {"retried": known.get("retried", 0) + 1}))
    RunFolder(path).set_state("queued", reason=None, message=None)


def children(parent: Path) -> list[Path]:
    """The folders with a params.json in a search's."""
    return sorted(path.parent for path in parent.glob(f"*/{run_folder.PARAMS}"))
