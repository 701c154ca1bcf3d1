"""What a search will train: its trials, named and checked, and their folders."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from config import run_folder, strict_json
from config.load import load_params
from config.run_folder import RunFolder
from config.schema import Params, Search
from config.space import Combination, child_params, read_axes, trial_name, wrong_combinations
from model.metric import greater_is_better, metrics
from search.strategies import STRATEGIES
from utils import UserError, printable, read_json, to_json, write_atomic

SEARCH: Final = "search.json"
FREE_KEYS: Final = ("about", "num_workers", "cache", "cache_gigabytes", "checkpoint_minutes")  # change no result


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
        trials: in the order in which they are trained: all combinations once before any a second time.
        digest: of everything that decides which trials there are.
    """

    parent: RunFolder
    params: Params
    settings: Search
    trials: tuple[Trial, ...]
    digest: str

    @property
    def metric(self) -> str:
        """What combinations are compared by."""
        return self.settings.metric or self.params.best_metric

    @property
    def greater(self) -> bool:
        """Whether more of the metric is better."""
        if self.settings.mode is None and self.metric in ("loss", *metrics):
            return greater_is_better(self.metric)
        return self.settings.mode != "min"


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
    if settings.seeds > 1 and any("seed" in axis.names for axis in axes):
        raise UserError(f"{parent.params}: hyper_search lists seed, and search asks for more seeds; keep one of them")
    combinations = STRATEGIES[settings.method](axes, base, settings)
    if problems := wrong_combinations(parent.params, combinations):
        raise UserError("\n".join(problems))
    trials = _trials(parent.path, base, combinations, settings.seeds)
    decisive = [t.params | {"about": None} for t in trials]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return Plan(parent, params, settings, trials, digest)


def confirmation(plan: Plan, combination: Combination, seeds: int) -> tuple[Trial, ...]:
    """The trainings of one combination with so many seeds."""
    base = strict_json.read(plan.parent.params).value
    first = next(trial.name for trial in plan.trials if trial.combination == combination and trial.seed == 1)
    return tuple(
        Trial(len(plan.trials) + seed, plan.parent.path / (first + f"-seed_{seed}" * (seed > 1)), combination, seed,
              child_params(base, combination, seed))
        for seed in range(1, seeds + 1)
    )  # fmt: skip


def _trials(
    parent: Path, base: Mapping[str, Any], combinations: Sequence[Combination], seeds: int
) -> tuple[Trial, ...]:
    trials, taken = list[Trial](), set[str]()
    for seed in range(1, seeds + 1):
        for combination in combinations:
            name = trial_name(combination, seed)
            if name.casefold() in taken:
                name = trial_name(combination, seed, digest=True)
            taken.add(name.casefold())
            params = child_params(base, combination, seed)
            trials.append(Trial(len(trials) + 1, parent / name, combination, seed, params))
    return tuple(trials)


# --- folders ---------------------------------------------------------------------------------------------------------


def lay_out(plan: Plan, *, extend: bool = False) -> None:
    """Makes the trials' folders, as far as they are not there.

    Args:
        plan: the search.
        extend: trials may come to those of an earlier start.

    Raises:
        UserError: when trained folders do not belong to the search as it is now.
    """
    known = {trial.name for trial in plan.trials}
    before = {path.name: _about(path) for path in _children(plan.parent.path)}
    others = [name for name, about in before.items() if about and not about.get("confirm") and name not in known]
    if gone := [name for name in others if not _untouched(plan.parent.path / name)]:
        raise UserError(
            f"{plan.parent.path}: {_listed(gone)} would no longer be part of the search; "
            "put hyper_search and search back as they were, or search in another --parent_dir"
        )
    changed = [trial for trial in plan.trials if trial.name in before and _differences(trial)]
    if trained := [trial for trial in changed if RunFolder(trial.path).status().get("state", "queued") != "queued"]:
        raise UserError(
            f"{plan.parent.params}: changed since {_listed([t.name for t in trained])} began: "
            f"{'; '.join(_differences(trained[0]))}; undo the change, or search in another --parent_dir"
        )
    new = [trial for trial in plan.trials if trial.name not in before]
    earlier = [name for name, about in before.items() if about and about["spec"] != plan.digest]
    if new and not extend and not all(_untouched(plan.parent.path / name) for name in earlier):
        raise UserError(
            f"{plan.parent.path}: {_listed([t.name for t in new])} would come to a search that was started without; "
            "--extend adds them"
        )
    for name in others:
        _remove(plan.parent.path / name)
    for trial in (*changed, *new):
        make_folder(plan, trial)


def make_folder(plan: Plan, trial: Trial, *, confirm: bool = False) -> None:
    """Makes one trial's folder. It counts as there from its params.json on, which comes last."""
    trial.path.mkdir(exist_ok=True)
    own_net = plan.parent.file(run_folder.NET)
    if own_net.is_file():
        write_atomic(trial.path / run_folder.NET, own_net.read_bytes())
    about = {"trial": trial.number, "values": trial.combination, "seed": trial.seed, "method": plan.settings.method,
             "spec": plan.digest, "retried": 0, "confirm": confirm}  # fmt: skip
    write_atomic(trial.path / SEARCH, to_json(about))
    write_atomic(trial.path / run_folder.PARAMS, to_json(trial.params))
    RunFolder(trial.path).set_state("queued")


def about(path: Path) -> dict[str, Any]:
    """A trial's search.json."""
    return _about(path) or {}


def count_retry(path: Path) -> None:
    """Notes in a trial's search.json that it is tried once more."""
    known = about(path)
    write_atomic(path / SEARCH, to_json(known | {"retried": known.get("retried", 0) + 1}))


def clear(trials: Sequence[Trial]) -> None:
    """Lets failed trials be tried as if they had not been before; what they left is moved aside."""
    for trial in trials:
        folder = RunFolder(trial.path)
        if folder.status().get("state") == "failed":
            folder.move_results_aside()
            write_atomic(trial.path / SEARCH, to_json(about(trial.path) | {"retried": 0}))
            folder.set_state("queued")


def _children(parent: Path) -> list[Path]:
    return sorted(path.parent for path in parent.glob(f"*/{run_folder.PARAMS}"))


def _untouched(path: Path) -> bool:
    """Whether a trial's folder holds only what a search puts there."""
    waiting = RunFolder(path).status().get("state", "queued") == "queued"
    return waiting and {file.name for file in path.iterdir()} <= {*run_folder.INPUTS, run_folder.STATUS}


def _remove(path: Path) -> None:
    (path / run_folder.PARAMS).unlink()  # without it the rest is no trial
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


def _about(path: Path) -> dict[str, Any] | None:
    found = read_json(path / SEARCH) if (path / SEARCH).is_file() else None
    return found if isinstance(found, dict) else None


def _differences(trial: Trial) -> list[str]:
    """What a trial's params.json holds otherwise than it should."""
    there = read_json(trial.path / run_folder.PARAMS)
    nothing = "nothing"
    return [
        f"{key}: {there.get(key, nothing)} -> {trial.params.get(key, nothing)}"
        for key in dict.fromkeys([*there, *trial.params])
        if key not in FREE_KEYS and there.get(key, nothing) != trial.params.get(key, nothing)
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
