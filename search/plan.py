"""What a search will train: its trials, named and checked, and their folders."""

import functools
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import utils
from config import run_folder, strict_json
from config.load import load_params
from config.run_folder import RunFolder
from config.schema import Params, Search
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
from search.starting_weights import starting_weights
from search.strategies import STRATEGIES
from utils import TEMPORARY_PREFIX, UserError, printable, read_json, to_json, write_atomic

SEARCH: Final = "search.json"
LAID_OUT: Final = {*run_folder.INPUTS, run_folder.STATUS, run_folder.STOP}  # what a trial's folder holds at first
# They change no result.
FREE_KEYS: Final = ("$schema", "about", "num_workers", "cache", "cache_gigabytes", "checkpoint_minutes")


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
        decisive: list[Any] = [_decisive(trial.params) for trial in self.trials]
        if self.settings.method in SAMPLERS:
            base = {key: value for key, value in self.base.items() if key != "search"}
            decisive = [_decisive(base), self.settings.model_dump(include={"method", "trials", "seeds", "seed"})]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _decisive(params: Mapping[str, Any]) -> dict[str, Any]:
    """Without what changes no result."""
    return {key: value for key, value in params.items() if key not in FREE_KEYS}


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
        _append(search, [(combination, seed) for combination in combinations for seed in seeds])
    else:
        _append(search, [(combination, seed) for seed in seeds for combination in combinations])
    return search


def add(search: Plan, combination: Combination) -> list[Trial]:
    """Makes the trials of one more combination, and their folders."""
    trials = _append(search, [(combination, seed) for seed in range(1, search.settings.seeds + 1)])
    for trial in trials:
        make_folder(search, trial)
    return trials


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


def _append(search: Plan, wanted: Sequence[tuple[Combination, int]]) -> list[Trial]:
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
    known = [about for path in _children(parent) if (about := _about(path)) and not about.get("confirm")]
    found: list[Combination] = []
    for about in sorted(known, key=lambda about: about["trial"]):
        if belongs(about["values"], axes, base) and about["values"] not in found:
            found.append(about["values"])
    return found


def _weights(parent: Path, asked: str, metric: str) -> str:
    """The weights that every trial starts from: those of the first start, where it asked for the same."""
    for path in _children(parent):
        record = (_about(path) or {}).get("weights")
        if record and record["asked"] == asked:
            return str(record["taken"])
    return starting_weights(asked, metric)


# --- folders ---------------------------------------------------------------------------------------------------------


def lay_out(plan: Plan, *, extend: bool = False, retry_failed: bool = False) -> None:
    """Makes the trials' folders, as far as they are not there.

    Args:
        plan: the search.
        extend: trials may come to those of an earlier start.
        retry_failed: failed trials may have changed; those are made anew.

    Raises:
        UserError: when trained folders do not belong to the search as it is now.
    """
    before = {path: _about(path) for path in _children(plan.parent.path)}
    known = {trial.path for trial in plan.trials}
    others = [path for path, found in before.items() if found and not found.get("confirm") and path not in known]
    new = [trial for trial in plan.trials if trial.path not in before]
    by_hand = [trial for trial in plan.trials if trial.path in before and before[trial.path] is None]
    there = [trial for trial in plan.trials if before.get(trial.path)]
    changed = {trial.path: trial for trial in there if _differences(plan, trial)}
    again = [changed.pop(path) for path in list(changed) if retry_failed and _state(path) == "failed"]
    kept = before.keys() - {*others, *(trial.path for trial in again)}
    earlier = [path for path in kept if (found := before[path]) and found["spec"] != plan.digest]
    for trial in by_hand:
        _refuse_another(plan, trial)
    _refuse_fewer(plan, others)
    _refuse_changes(plan, list(changed.values()))
    if not extend:
        _refuse_more(plan, new, earlier)
    for path in (*_half_made(plan.parent.path, known), *others):
        _remove(path)
    for path in earlier if extend else ():  # what comes belongs to it from now on
        write_atomic(path / SEARCH, to_json(about(path) | {"spec": plan.digest}))
    for trial in there:
        if trial.path not in changed and _state(trial.path) != "finished":
            _renew(trial)
    for trial in again:
        _write_inputs(plan, trial)
    clear(again)
    for trial in (*changed.values(), *by_hand, *new):
        make_folder(plan, trial)


def _refuse_fewer(plan: Plan, others: Sequence[Path]) -> None:
    if gone := [path.name for path in others if not (_untouched(path) and _bare(path))]:
        raise UserError(
            f"{plan.parent.path}: {_listed(gone)} would no longer be part of the search; "
            "put hyper_search and search back as they were, or search in another --parent_dir"
        )


def _refuse_changes(plan: Plan, changed: Sequence[Trial]) -> None:
    if begun := [trial for trial in changed if not _untouched(trial.path)]:
        failed = all(_state(trial.path) == "failed" for trial in begun)
        remedy = "train them anew by --retry_failed" if failed else "search in another --parent_dir"
        raise UserError(
            f"{plan.parent.params}: changed since {_listed([trial.name for trial in begun])} began: "
            f"{'; '.join(_differences(plan, begun[0]))}; undo the change, or {remedy}"
        )


def _refuse_more(plan: Plan, new: Sequence[Trial], earlier: Sequence[Path]) -> None:
    if (new or plan.to_come) and not all(map(_untouched, earlier)):
        more = _listed([trial.name for trial in new]) if new else f"{plan.to_come} combinations"
        raise UserError(
            f"{plan.parent.path}: {more} would come to a search that was started without; --extend adds them"
        )


def make_folder(plan: Plan, trial: Trial, *, confirm: bool = False) -> None:
    """Makes one trial's folder, or takes over the one that a person made, with what was trained there.

    A folder counts as there from its params.json on, which comes last.

    Raises:
        UserError: when a person made it for something else.
    """
    if _made_by_hand(trial.path):
        _refuse_another(plan, trial)
        write_atomic(trial.path / SEARCH, _record(plan, trial, confirm=confirm))
    else:
        utils.make_folder(trial.path)
        _write_inputs(plan, trial, confirm=confirm)
        RunFolder(trial.path).set_state("queued")


def _made_by_hand(path: Path) -> bool:
    return (path / run_folder.PARAMS).is_file() and _about(path) is None


def _refuse_another(plan: Plan, trial: Trial) -> None:
    if differences := _differences(plan, trial):
        raise UserError(
            f"{trial.path}: has the name of a trial, but is no part of the search: {'; '.join(differences)}; "
            "give the folder another name"
        )


def _write_inputs(plan: Plan, trial: Trial, *, confirm: bool = False) -> None:
    own_net = plan.parent.file(run_folder.NET)
    if own_net.is_file():
        write_atomic(trial.path / run_folder.NET, own_net.read_bytes())
    write_atomic(trial.path / SEARCH, _record(plan, trial, confirm=confirm))
    write_atomic(trial.path / run_folder.PARAMS, to_json(trial.params))


def _renew(trial: Trial) -> None:
    """Has a trial that is not at its end go on with the num_workers and the like that are now wanted."""
    path = trial.path / run_folder.PARAMS
    if read_json(path) != trial.params:
        write_atomic(path, to_json(trial.params))


def _record(plan: Plan, trial: Trial, *, confirm: bool) -> bytes:
    """A trial's search.json."""
    about = {"trial": trial.number, "values": trial.combination, "seed": trial.seed, "method": plan.settings.method,
             "settings": plan.settings.model_dump(mode="json", exclude_defaults=True),
             "spec": plan.digest, "retried": 0, "confirm": confirm}  # fmt: skip
    if plan.settings.weights is not None:
        about["weights"] = {"asked": plan.settings.weights, "taken": trial.params["pretrain"]}
    return to_json(about)


def about(path: Path) -> dict[str, Any]:
    """A trial's search.json; empty where there is none."""
    return _about(path) or {}


def count_retry(path: Path) -> None:
    """Notes that a trial is tried once more; from then on it waits, whoever looks next."""
    known = about(path)
    write_atomic(path / SEARCH, to_json(known | {"retried": known.get("retried", 0) + 1}))
    RunFolder(path).set_state("queued", reason=None, message=None)


def clear(trials: Sequence[Trial]) -> None:
    """Lets failed trials be tried as if they had not been before; what they left is moved aside."""
    for trial in trials:
        if _state(trial.path) == "failed":
            folder = RunFolder(trial.path)
            folder.move_results_aside()
            write_atomic(trial.path / SEARCH, to_json(about(trial.path) | {"retried": 0}))
            folder.set_state("queued")


def _children(parent: Path) -> list[Path]:
    return sorted(path.parent for path in parent.glob(f"*/{run_folder.PARAMS}"))


def _state(path: Path) -> str:
    try:
        return str(RunFolder(path).status().get("state", "queued"))
    except UserError:  # damaged: the training puts it right
        return "queued"


def _untouched(path: Path) -> bool:
    """Whether a trial waits, with nothing of a training in its folder but what was moved aside."""
    return _state(path) == "queued" and _bare(path, run_folder.ASIDE)


def _bare(path: Path, *prefixes: str) -> bool:
    """Whether a folder holds only what a search puts there, and what begins with one of the prefixes."""
    names = (file.name for file in path.iterdir())
    return all(name in LAID_OUT or name.startswith((TEMPORARY_PREFIX, *prefixes)) for name in names)


def _half_made(parent: Path, known: Collection[Path]) -> list[Path]:
    """Folders that a search was killed in the midst of making, of trials that are now others."""
    folders = [path.parent for path in parent.glob(f"*/{SEARCH}") if path.parent not in known]
    return [folder for folder in folders if not (folder / run_folder.PARAMS).exists() and _bare(folder)]


def _remove(path: Path) -> None:
    (path / run_folder.PARAMS).unlink(missing_ok=True)  # without it the rest is no trial
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


def _about(path: Path) -> dict[str, Any] | None:
    """A trial's search.json; None where there is none of a search."""
    found = read_json(path / SEARCH) if (path / SEARCH).is_file() else None
    return found if isinstance(found, dict) and {"trial", "values", "spec"} <= found.keys() else None


def _differences(plan: Plan, trial: Trial) -> list[str]:
    """What a trial's params.json, or the net beside it, holds otherwise than it should."""
    there, wanted = _decisive(read_json(trial.path / run_folder.PARAMS)), _decisive(trial.params)
    nothing = "nothing"
    found = [
        f"{key}: {there.get(key, nothing)} -> {wanted.get(key, nothing)}"
        for key in dict.fromkeys([*there, *wanted])
        if there.get(key, nothing) != wanted.get(key, nothing)
    ]
    if trial.params.get("arch") == run_folder.NET and _net(trial.path) != _net(plan.parent.path):
        found.append(f"{run_folder.NET} is another")
    return found


def _net(path: Path) -> bytes | None:
    file = path / run_folder.NET
    return file.read_bytes() if file.is_file() else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
