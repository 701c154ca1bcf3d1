"""What a search trains next: what was promoted, then what waits, then what the results so far suggest."""

import statistics
import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

from config.space import Combination, probes
from search import jobs, layout, pruners
from search.plan import Plan, Trial
from search.samplers import Tried, propose
from utils import log

BUSY_SECONDS: Final = 1.0  # before a folder that another process trains is looked at again


class Agenda:
    """The order of trainings.

    Args:
        search: the plan, laid out.
        trials: the plan's, to which more may come; or others, to be trained to their ends.
    """

    def __init__(self, search: Plan, trials: Sequence[Trial]) -> None:
        whole = trials is search.trials
        self.search = search
        self.pruner = pruners.make(search) if whole else None
        self.waiting = deque[Trial]()
        self._held: Collection[str] = ()
        self._not_before: dict[str, float] = {}
        self._to_come = search.to_come if whole else 0  # combinations
        for trial in trials:
            jobs.settle(trial.path)
            if jobs.to_train(trial.path, search.settings.retries):
                self.waiting.append(trial)

    def combinations(self) -> list[Combination]:
        """The values that will be trained, as far as they are known, and else samples of them."""
        known: dict[str, Combination] = {repr(trial.combination): trial.combination for trial in self.waiting}
        return [*known.values(), *(probes(self.search.axes, self.search.base) if self._to_come else ())]

    def left(self) -> bool:
        """Whether there is something to train when nothing runs."""
        return bool(self.waiting or self._to_come or self._promoted(()))

    def next(self, running: Collection[str]) -> Trial | None:
        """The trial to start now, with its stop.json as the pruner wants it; None: nothing can be started now.

        Args:
            running: the names of those that run.
        """
        trial = self._promoted(running) or self._first_waiting()
        while trial is None and self._to_come:
            self._propose()
            trial = self._first_waiting()
        if trial is not None and jobs.look(trial.path).state != "running":
            self._set_limit(trial)
        return trial

    def take_over(self, held: Collection[str]) -> None:
        """Has the trials come first that an earlier start of the search left with the launcher, running or not."""
        self._held = held
        self.waiting = deque(sorted(self.waiting, key=lambda trial: trial.name not in held))

    def put_back(self, trial: Trial, seconds: float = 0.0) -> None:
        """Has a trial wait for its turn, which comes after so many seconds at the earliest."""
        self._not_before[trial.name] = time.monotonic() + seconds
        self.waiting.append(trial)

    def watch(self, running: Sequence[Trial]) -> None:
        """Ends those of the running trials that have fallen behind."""
        if self.pruner is not None:
            self.pruner.watch(running)

    def _promoted(self, running: Collection[str]) -> Trial | None:
        if self.pruner is None:
            return None
        active = {*running, *(trial.name for trial in self.waiting)}
        return self.pruner.promoted(active, closed=not self.waiting and not self._to_come)

    def _set_limit(self, trial: Trial) -> None:
        """Leaves the stop.json that the pruner wants; a person's stays."""
        limit = None if self.pruner is None else self.pruner.limit(trial)
        if jobs.asked_by_a_person(trial.path):
            return
        if self.pruner is None or limit is None:
            jobs.let_go_on(trial.path)
        else:
            jobs.end_after(trial.path, limit, self.pruner.name)

    def _first_waiting(self) -> Trial | None:
        for _ in range(len(self.waiting)):
            trial = self.waiting.popleft()
            if time.monotonic() < self._not_before.get(trial.name, 0.0):
                self.waiting.append(trial)
            elif trial.name not in self._held and jobs.look(trial.path).state == "running":
                # by another process: it may yet finish or be lost
                self.put_back(trial, BUSY_SECONDS)
            elif jobs.to_train(trial.path, self.search.settings.retries):
                return trial
            else:
                jobs.settle(trial.path)  # another process brought it to where it was to pause
        return None

    def _propose(self) -> None:
        combination = propose(self.search.axes, self.search.base, self.search.settings, tried(self.search))
        if combination is None:
            log.info("%s: every combination has been tried", self.search.parent.path)
            self._to_come = 0
        else:
            self._to_come -= 1
            self.waiting.extend(layout.add(self.search, combination))


def tried(search: Plan) -> list[Tried]:
    """How the combinations of an adaptive search went, told from their folders; the mean over the seeds of each."""
    seeds = search.settings.seeds
    return [_went(search, search.trials[start : start + seeds]) for start in range(0, len(search.trials), seeds)]


def _went(search: Plan, trials: Sequence[Trial]) -> Tried:
    combination, sign = trials[0].combination, 1 if search.greater else -1
    if any(jobs.to_train(trial.path, search.settings.retries) for trial in trials):
        return Tried(combination, "running")
    seen = [jobs.look(trial.path) for trial in trials]
    if any(look.state == "failed" and look.reason in jobs.NEVER_RETRIED for look in seen):
        return Tried(combination, "poor")
    measured = [trial for trial, look in zip(trials, seen, strict=True) if look.state != "failed"]
    if not measured:
        return Tried(combination, "failed")
    value = sign * statistics.fmean(jobs.score(trial.path, search.metric) for trial in measured)
    ended = all(look.state in ("finished", "failed") for look in seen)
    return Tried(combination, "finished" if ended else "pruned", value, jobs.epochs(trials[0].path))
