"""Runs a search: keeps the slots filled until no trial is left. What a later start has to know is in the folders."""

import math
import re
import signal
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import include
from search import agenda, jobs, plan
from search.agenda import Agenda
from search.launchers import POLL_SECONDS, Ended, Environment, Launcher, LauncherLost
from search.live import Board
from search.plan import Plan, Trial
from training.signals import Signals
from utils import Interrupted, UserError, log

ALIKE: Final = 3  # first failures with one message: the fault is not the trial's
MOST_IN_VAIN: Final = 10  # times a trial may be killed without getting further
MOST_LOST: Final = 5  # launchers lost without a trial that ended in between
KEPT: Final = {"all": None, "best": 1, "top3": 3, "none": 0}  # how many of the best keep their weights


class Engine:
    """One run through the trials.

    Args:
        search: the plan, laid out.
        data_dir: data/<name>, for every trial.
        slots: the environment of each trial that may run at the same time.
        launch: makes what starts the trials.
        signals: the requests from outside to stop.
    """

    def __init__(
        self,
        search: Plan,
        data_dir: Path,
        slots: Sequence[Environment],
        launch: Callable[[], Launcher],
        signals: Signals,
    ) -> None:
        self.search = search
        self.data_dir = data_dir
        self.launch = launch
        self.signals = signals
        self.free = list(slots)
        self.running: dict[str, tuple[Trial, Environment]] = {}
        self.in_vain: Counter[str] = Counter()
        self.mark: dict[str, int] = {}
        self.failures: dict[str, str] = {}
        self.cancelled = 0  # trials that a person took out of a cluster's queue
        self.dropped: set[str] = set()  # trials whose weights were removed
        self.went_well = any(jobs.look(trial.path).state in ("finished", "pruned") for trial in search.trials)
        self.lost = 0  # launchers, since a trial ended
        self.board = Board(search)
        self.agenda: Agenda

    def run(self, trials: Sequence[Trial]) -> None:
        """Trains what is left to train, until all is done, time is up, or a signal or a fault stops it.

        Args:
            trials: the plan's, to which more may come; or others, to be trained to their ends.

        Raises:
            UserError: for names that only torch knows to be wrong, and when the first trials all fail alike.
        """
        self.agenda = Agenda(self.search, trials)
        self._keep_weights()
        deadline = time.monotonic() + (self.search.settings.hours * 3600 or math.inf)
        while (self.agenda.left() or self.running) and not self._over(deadline):
            launcher = self.launch()
            self.signals.at_last = launcher.kill
            try:
                self._serve(launcher, deadline)
            except LauncherLost as error:
                self.lost += 1
                if self.lost >= MOST_LOST:
                    raise UserError(f"{error}, {self.lost} times; {launcher.remedy}") from error
                log.warning("%s; starting it anew", error)
                self._forget_running()
            finally:
                launcher.close()
        if not self.agenda.left():
            self._keep_weights(done=True)
        elif not self.signals.received:
            log.info("the %g hours are over; the same command goes on", self.search.settings.hours)

    def _over(self, deadline: float) -> bool:
        return self.signals.received is not None or time.monotonic() >= deadline

    def _serve(self, launcher: Launcher, deadline: float) -> None:
        if problems := launcher.wrong(self.search.parent.params, self.agenda.combinations()):
            raise UserError("\n".join(problems))
        self.agenda.take_over(launcher.held())
        asked = False
        while self.running or not (asked or self.cancelled or not self.agenda.left()):
            if self._over(deadline) and not asked:
                launcher.signal(signal.SIGTERM)
                asked = True
            if not asked and not self.cancelled:
                self._fill(launcher)
            for ended in launcher.wait(POLL_SECONDS):
                self._take_back(ended, asked)
            trials = [trial for trial, _ in self.running.values()]
            self.agenda.watch(trials)
            self.board.show(trials, len(self.agenda.waiting))
        if self.cancelled:
            were = f"{self.cancelled} trainings were cancelled in the queue"
            raise Interrupted(signal.SIGTERM, f"{self.search.parent.path}: {were}; the same command goes on")

    def _fill(self, launcher: Launcher) -> None:
        """Starts trials while there are a free slot and a trial that may be trained now."""
        while self.free and (trial := self.agenda.next(self.running)) is not None:
            if jobs.look(trial.path).state == "failed":
                plan.count_retry(trial.path)
            slot = self.free.pop(0)
            self.running[trial.name] = trial, slot
            self.mark[trial.name] = jobs.progress_mark(trial.path)
            launcher.train(trial.name, arguments(trial, self.data_dir), slot)

    def _take_back(self, ended: Ended, asked: bool) -> None:
        self.lost = 0
        trial, slot = self.running.pop(ended.name)
        self.free.append(slot)
        jobs.take_note(trial.path, ended)
        jobs.settle(trial.path)
        seen = jobs.look(trial.path)
        delay = 0.0
        if seen.state == "failed":
            self._weigh(trial, seen)
        elif seen.state in ("finished", "pruned"):
            self.went_well = True
        elif not asked and not ended.cancelled:
            delay = self._weigh_loss(trial, ended)
        self.cancelled += ended.cancelled
        if jobs.to_train(trial.path, self.search.settings.retries):
            self.agenda.put_back(trial, delay)
        self.board.tell(trial)
        self._keep_weights()

    def _weigh(self, trial: Trial, seen: jobs.Look) -> None:
        """Stops the search when all that ended so far failed, with one message."""
        self.failures[trial.name] = re.sub(r"\S*" + re.escape(trial.name) + r"\S*", "", seen.message)
        same = len(set(self.failures.values())) == 1
        if len(self.failures) >= ALIKE and same and not self.went_well:
            raise UserError(
                f"{self.search.parent.path}: the first {len(self.failures)} trials all failed: {seen.message}; "
                "put it right, then --retry_failed"
            )

    def _weigh_loss(self, trial: Trial, ended: Ended) -> float:
        """A killed trial goes on, after the seconds returned, unless it is killed again and again where it stands."""
        if ended.code == include.BUSY:
            return agenda.BUSY_SECONDS
        further = jobs.progress_mark(trial.path) != self.mark[trial.name]
        self.in_vain[trial.name] = 0 if further else self.in_vain[trial.name] + 1
        if self.in_vain[trial.name] >= MOST_IN_VAIN:
            number = abs(ended.code) % 128  # -15 where the signal ended it, 143 where it saved before
            said = f"killed {MOST_IN_VAIN} times by signal {number} without getting further"
            jobs.fail(trial.path, "oom" if number == signal.SIGKILL else "error", said)
        return 0.0

    def _keep_weights(self, *, done: bool = False) -> None:
        """Removes the weights that keep_weights does not ask for; those of pruned trials when no more will go on.

        Combinations rank by their means, as in the table, once all their seeds are there, and keep the weights of each.
        """
        kept, seeds = KEPT[self.search.settings.keep_weights], self.search.settings.seeds
        if kept is None:
            return
        groups = defaultdict[str, list[tuple[Trial, float]]](list)
        for trial, score in self.board.finished():
            if trial.seed <= seeds or not kept:  # what a confirmation trains beyond them is of the best
                groups[repr(trial.combination)].append((trial, score))
        whole = [group for group in groups.values() if done or len(group) == seeds or not kept]
        whole.sort(key=self._rank)
        unwanted = [trial for group in whole[kept:] for trial, _ in group]
        if done:
            unwanted += [trial for trial in self.search.trials if jobs.look(trial.path).state == "pruned"]
        for trial in unwanted:
            if trial.name not in self.dropped:
                jobs.drop_weights(trial.path)
                self.dropped.add(trial.name)

    def _rank(self, group: Sequence[tuple[Trial, float]]) -> tuple[bool, float, int]:
        """Of a combination's trials with their metrics, best first."""
        mean = statistics.fmean(score for _, score in group)
        return math.isnan(mean), -mean if self.search.greater else mean, min(trial.number for trial, _ in group)

    def _forget_running(self) -> None:
        for trial, slot in self.running.values():
            self.agenda.put_back(trial)
            self.free.append(slot)
        self.running.clear()


def arguments(trial: Trial, data_dir: Path) -> list[str]:
    """Of a trial's train.py. Decoded images are kept where all trials find them, not in the memory of each."""
    kept = trial.params.get("cache", "auto")
    found = ["--data_dir", str(data_dir), "--model_dir", str(trial.path)]
    return found if kept != "auto" else [*found, "--set", "cache=disk"]
