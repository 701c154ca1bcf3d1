"""The trials' folders: made, made anew, taken over from a person, or refused."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import utils
from config import run_folder
from config.run_folder import SEARCH, RunFolder
from config.space import Combination
from search.plan import Plan, Trial, about, append, children, decisive
from utils import TEMPORARY_PREFIX, UserError, read_json, to_json, write_atomic

LAID_OUT: Final = {*run_folder.INPUTS, run_folder.STATUS, run_folder.STOP}  # what a trial's folder holds at first


def lay_out(plan: Plan, *, extend: bool = False, retry_failed: bool = False) -> None:
    """Makes the trials' folders, as far as they are not there.

    Args:
        plan: the search.
        extend: trials may come to those of an earlier start.
        retry_failed: failed trials may have changed; those are made anew.

    Raises:
        UserError: when trained folders do not belong to the search as it is now.
    """
    before = {path: about(path) for path in children(plan.parent.path)}
    known = {trial.path for trial in plan.trials}
    others = [path for path, found in before.items() if found and not found.get("confirm") and path not in known]
    new = [trial for trial in plan.trials if trial.path not in before]
    by_hand = [trial for trial in plan.trials if trial.path in before and not before[trial.path]]
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
    return (path / run_folder.PARAMS).is_file() and not about(path)


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
    known = {"trial": trial.number, "values": trial.combination, "seed": trial.seed, "method": plan.settings.method,
             "settings": plan.settings.model_dump(mode="json", exclude_defaults=True),
             "spec": plan.digest, "retried": 0, "confirm": confirm}  # fmt: skip
    if plan.settings.weights is not None:
        known["weights"] = {"asked": plan.settings.weights, "taken": trial.params["pretrain"]}
    return to_json(known)


def add(search: Plan, combination: Combination) -> list[Trial]:
    """Makes the trials of one more combination, and their folders."""
    trials = append(search, [(combination, seed) for seed in range(1, search.settings.seeds + 1)])
    for trial in trials:
        make_folder(search, trial)
    return trials


def clear(trials: Sequence[Trial]) -> None:
    """Lets failed trials be tried as if they had not been before; what they left is moved aside."""
    for trial in trials:
        if _state(trial.path) == "failed":
            folder = RunFolder(trial.path)
            folder.move_results_aside()
            write_atomic(trial.path / SEARCH, to_json(about(trial.path) | {"retried": 0}))
            folder.set_state("queued")


# --- what is there ----------------------------------------------------------------------------------------------------


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


def _differences(plan: Plan, trial: Trial) -> list[str]:
    """What a trial's params.json, or the net beside it, holds otherwise than it should."""
    there, wanted = decisive(read_json(trial.path / run_folder.PARAMS)), decisive(trial.params)
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
