"""Which trials end early, told from their histories alone: whoever decides next sees what was decided before.

A trial is only compared with trials of as many epochs, at the same epoch, by the best of the metric until then. It ends
through the stop.json in its folder, which names an epoch, so it ends there wherever it runs. An ended trial keeps its
checkpoint, and may be let go on.
"""

import math
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from config import run_folder
from config.parts import Pruner as Settings
from config.space import probes
from search import jobs
from search.plan import Plan, Trial, about
from utils import UserError, read_json

REDUCTION: Final = 3
STARTUP: Final = 5  # trials that reached an epoch before the median there means anything

Values = tuple[float, ...]  # of a trial: the best until each epoch, greater is better


class Pruner(Protocol):
    """What ends trials early."""

    name: str

    def limit(self, trial: Trial) -> int | None:
        """The epoch after which a trial that starts now is to end; None: its last."""

    def promoted(self, active: Collection[str], closed: bool) -> Trial | None:
        """An ended trial that is to go on.

        Args:
            active: names of the trials that run or wait to.
            closed: no other trial will come.
        """

    def watch(self, running: Sequence[Trial]) -> None:
        """Ends those of the running trials that have fallen behind."""


def make(search: Plan) -> Pruner | None:
    """The pruner that a search asks for.

    Raises:
        UserError: when none of its trials is long enough to be judged.
    """
    asked = search.settings.pruner
    if asked is None:
        return None
    settings = Settings(name=asked) if isinstance(asked, str) else asked
    longest = _longest(search)
    late = longest - (settings.name == "median")  # which ends a trial after the epoch that runs
    if _grace(settings.grace, settings.reduction or REDUCTION, longest) >= late:
        raise UserError(f"{search.parent.params}: search.pruner judges nothing: no trial lasts longer than its grace")
    return PRUNERS[settings.name](search, settings)


class Halving:
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934): from each rung the best go on to the next.

    A trial pauses at its rung until it is among the best third (one in `reduction`) of all that have come so far, and
    goes on from its checkpoint then. Where so few come that nobody would be, the best goes on in the end. Hyperband
    (Li et al. 2018) deals the trials out to several ladders, each of which begins a rung later.

    Args:
        search: the plan.
        settings: grace, the first rung; reduction.
    """

    def __init__(self, search: Plan, settings: Settings) -> None:
        self.search = search
        self.name: str = settings.name
        self.reduction = settings.reduction or REDUCTION
        self.grace = settings.grace
        self.curves = Curves(search)
        self._ladders: dict[str, tuple[int, ...]] = {}

    def limit(self, trial: Trial) -> int | None:
        """The next rung of a trial's ladder; None when there is none above where it is."""
        done = len(self.curves(trial.path))
        return next((rung for rung in self._ladder(trial) if rung > done), None)

    def promoted(self, active: Collection[str], closed: bool) -> Trial | None:
        """The best that waits at the highest rung from which it may go on."""
        groups: dict[tuple[int, tuple[int, ...]], list[Trial]] = {}
        for trial in self.search.trials:
            groups.setdefault((_length(self.search, trial), self._ladder(trial)), []).append(trial)
        for (_, ladder), trials in groups.items():
            for rung in reversed(ladder):
                there = self._ranked(trials, rung)
                if found := self._paused(there[: len(there) // self.reduction], rung, active):
                    return found
        for (length, ladder), trials in groups.items():
            if closed and not any(t.name in active or self._complete(t, length) for t in trials):
                for rung in reversed(ladder):
                    if found := self._paused(self._ranked(trials, rung), rung, active):
                        return found
        return None

    def watch(self, running: Sequence[Trial]) -> None:
        """Leaves them alone: each ends at its rung."""

    def _ladder(self, trial: Trial) -> tuple[int, ...]:
        """The epochs at which a trial pauses; by the number that it was made with, which an extended search keeps."""
        if trial.name not in self._ladders:
            length = _length(self.search, trial)
            rungs = tuple(_rungs(_grace(self.grace, self.reduction, length), self.reduction, length))
            if self.name == "hyperband":
                number = about(trial.path).get("trial", trial.number)
                rungs = rungs[bracket(number, len(rungs) + 1, self.reduction) :]
            self._ladders[trial.name] = rungs
        return self._ladders[trial.name]

    def _ranked(self, trials: Sequence[Trial], rung: int) -> list[Trial]:
        """The trials that came to a rung, best first."""
        there = [t for t in trials if len(self.curves(t.path)) >= rung]
        return sorted(there, key=lambda t: (-self.curves(t.path)[rung - 1], t.number))

    def _paused(self, ranked: Sequence[Trial], rung: int, active: Collection[str]) -> Trial | None:
        """The first that stands at this rung and can go on; not while its process is still ending."""
        return next((t for t in ranked if t.name not in active and self._stands(t, rung) and jobs.paused(t.path)), None)

    def _stands(self, trial: Trial, rung: int) -> bool:
        done = len(self.curves(trial.path))
        return rung == max((r for r in self._ladder(trial) if r <= done), default=0)

    def _complete(self, trial: Trial, length: int) -> bool:
        return len(self.curves(trial.path)) >= length or jobs.look(trial.path).state == "finished"


class Median:
    """Ends a trial that is below the median of all others that came to the same epoch (Optuna's MedianPruner).

    Unlike there, of the others too the best until that epoch counts. Nothing is judged until `startup` others came
    there. The trial ends with the epoch that runs.

    Args:
        search: the plan.
        settings: grace, startup.
    """

    def __init__(self, search: Plan, settings: Settings) -> None:
        self.search = search
        self.name: str = settings.name
        self.grace = settings.grace
        self.startup = settings.startup or STARTUP
        self.curves = Curves(search)

    def limit(self, trial: Trial) -> int | None:
        """None: what it decides, it decides while the trial runs."""
        return None

    def promoted(self, active: Collection[str], closed: bool) -> Trial | None:
        """None: what it ended, stays so."""
        return None

    def watch(self, running: Sequence[Trial]) -> None:
        """Ends those that have fallen below the median, unless they are asked to end already."""
        for trial in running:
            if (trial.path / run_folder.STOP).exists():
                continue
            length, values = _length(self.search, trial), self.curves(trial.path)
            epoch = len(values)
            if not _grace(self.grace, REDUCTION, length) <= epoch < length - 1:
                continue
            others = [t for t in self.search.trials if t is not trial and _length(self.search, t) == length]
            there = [curve[epoch - 1] for t in others if len(curve := self.curves(t.path)) >= epoch]
            if len(there) >= self.startup and values[-1] < statistics.median(there):
                jobs.end_after(trial.path, epoch, self.name)


PRUNERS: Final[dict[str, Callable[[Plan, Settings], Pruner]]] = {
    "asha": Halving,
    "hyperband": Halving,
    "median": Median,
}


# --- ladders ---------------------------------------------------------------------------------------------------------


def _longest(search: Plan) -> int:
    """The epochs of the longest trial that there is or that may come."""
    to_come = probes(search.axes, search.base) if search.to_come else []
    combinations = [*(trial.combination for trial in search.trials), *to_come]
    return max(int(combination.get("num_epochs", search.params.num_epochs)) for combination in combinations)


def _length(search: Plan, trial: Trial) -> int:
    """The epochs of a trial's schedule."""
    return int(trial.params.get("num_epochs", search.params.num_epochs))


def _grace(asked: int | None, reduction: int, length: int) -> int:
    return asked or max(1, length // reduction**2)


def _rungs(first: int, reduction: int, length: int) -> Iterator[int]:
    """Where trials pause; the last time with `reduction` times as many epochs, or more, up to the end."""
    if first < length:
        yield first
    while first * reduction**2 <= length:
        first *= reduction
        yield first


def bracket(number: int, brackets: int, reduction: int) -> int:
    """The ladder of a trial: as many of each as in Hyperband, dealt out evenly, the one with most rungs first.

    Args:
        number: of the trial, from 1.
        brackets: how many there are.
        reduction: one in so many goes on.
    """
    most = brackets - 1
    shares = [math.ceil(brackets / (s + 1) * reduction**s) for s in range(most, -1, -1)]
    dealt = [0] * brackets
    for so_far in range(1, (number - 1) % sum(shares) + 2):
        behind = [so_far * share / sum(shares) - count for share, count in zip(shares, dealt, strict=True)]
        chosen = behind.index(max(behind))
        dealt[chosen] += 1
    return chosen


class Curves:
    """The best of the metric until each epoch, of any trial; a history is read again only when it has changed.

    Args:
        search: the plan.
    """

    def __init__(self, search: Plan) -> None:
        self.metric = search.metric
        self.sign = 1.0 if search.greater else -1.0
        self._known: dict[Path, tuple[tuple[int, int], Values]] = {}

    def __call__(self, path: Path) -> Values:
        """Of one trial; empty before its first epoch has ended."""
        history = path / run_folder.HISTORY
        try:
            stat = history.stat()
        except OSError:
            return ()
        stamp = stat.st_mtime_ns, stat.st_size
        if self._known.get(path, (None, ()))[0] != stamp:
            self._known[path] = stamp, self._read(history)
        return self._known[path][1]

    def _read(self, history: Path) -> Values:
        best, found = -math.inf, list[float]()
        try:
            for row in read_json(history)["epochs"]:
                value = row["valid"][self.metric]
                best = max(best, -math.inf if value is None else self.sign * value)
                found.append(best)
        except (UserError, LookupError, TypeError):  # damaged: the training writes it anew
            return ()
        return tuple(found)
