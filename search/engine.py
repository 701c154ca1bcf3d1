"""Runs a search: keeps the slots filled until no trial is left. Whatever it knows, the folders know too."""

import math
import re
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import include
from config.space import Combination
from search import jobs, plan
from search.launchers import Ended, Environment, Launcher, LauncherLost
from search.live import Board
from search.plan import Plan, Trial
from training.signals import Signals
from utils import UserError, log

ALIKE: Final = 3  # first failures with one message: the fault is not the trial's
MOST_IN_VAIN: Final = 10  # times a trial may be killed without getting further
MOST_LOST: Final = 5  # launchers lost without a trial that ended in between
POLL_SECONDS: Final = 0.5
BUSY_SECONDS: Final = 1.0  # before a folder that another process trains is looked at again


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
        self.pending: deque[Trial] = deque()
        self.running: dict[str, tuple[Trial, Environment]] = {}
        self.not_before: dict[str, float] = {}
        self.in_vain: Counter[str] = Counter()
        self.mark: dict[str, int] = {}
        self.failures: dict[str, str] = {}
        self.lost = 0  # launchers, since a trial ended
        self.board = Board(search)

    def run(self, trials: Sequence[Trial]) -> None:
        """Trains what is left to train of these, until all is done, time is up, or a signal or a fault stops it.

        Raises:
            UserError: for names that only torch knows to be wrong, and when the first trials all fail alike.
        """
        retries = self.search.settings.retries
        self._keep_weights(self.board.finished())
        self.pending.extend(trial for trial in trials if jobs.to_train(trial.path, retries))
        if not self.pending:
            return
        deadline = time.monotonic() + (self.search.settings.hours * 3600 or math.inf)
        while (self.pending or self.running) and not self._over(deadline):
            launcher = self.launch()
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
        if self.pending and not self.signals.received:
            log.info("the %g hours are over; the same command goes on", self.search.settings.hours)

    def _over(self, deadline: float) -> bool:
        return self.signals.received is not None or time.monotonic() >= deadline

    def _serve(self, launcher: Launcher, deadline: float) -> None:
        combinations: list[Combination] = []
        for trial in self.pending:
            if trial.combination not in combinations:
                combinations.append(trial.combination)
        if problems := launcher.wrong(self.search.parent.params, combinations):
            raise UserError("\n".join(problems))
        asked = False
        while self.running or (self.pending and not asked):
            if self._over(deadline) and not asked:
                launcher.signal(signal.SIGTERM)
                asked = True
            if not asked:
                self._fill(launcher)
            for ended in launcher.wait(POLL_SECONDS):
                self._take_back(ended, asked)
            self.board.show([trial for trial, _ in self.running.values()], len(self.pending))

    def _fill(self, launcher: Launcher) -> None:
        """Starts trials while there are a free slot and a trial that may be trained now."""
        for _ in range(len(self.pending)):
            if not self.free:
                return
            trial = self.pending.popleft()
            if time.monotonic() < self.not_before.get(trial.name, 0.0):
                self.pending.append(trial)
                continue
            state = jobs.look(trial.path).state
            if state == "running":  # by another process: it may yet finish or be lost
                self.not_before[trial.name] = time.monotonic() + BUSY_SECONDS
                self.pending.append(trial)
                continue
            if not jobs.to_train(trial.path, self.search.settings.retries):
                continue
            if state == "failed":
                plan.count_retry(trial.path)
            slot = self.free.pop(0)
            self.running[trial.name] = trial, slot
            self.mark[trial.name] = jobs.progress_mark(trial.path)
            launcher.train(trial.name, _arguments(trial, self.data_dir), slot)

    def _take_back(self, ended: Ended, asked: bool) -> None:
        self.lost = 0
        trial, slot = self.running.pop(ended.name)
        self.free.append(slot)
        jobs.take_note(trial.path, ended)
        seen = jobs.look(trial.path)
        if seen.state == "failed":
            self._weigh(trial, seen)
        elif not asked and seen.state not in ("finished", "pruned"):
            self._weigh_loss(trial, ended)
        if jobs.to_train(trial.path, self.search.settings.retries):
            self.pending.append(trial)
        leader = self.board.best()
        self.board.tell(trial)
        self._keep_weights([trial, leader] if leader else [trial])

    def _weigh(self, trial: Trial, seen: jobs.Look) -> None:
        """Stops the search when all that ended so far failed, with one message."""
        self.failures[trial.name] = re.sub(r"\S*" + re.escape(trial.name) + r"\S*", "", seen.message)
        same = len(set(self.failures.values())) == 1
        if len(self.failures) >= ALIKE and same and not self.board.finished():
            raise UserError(
                f"{self.search.parent.path}: the first {len(self.failures)} trials all failed: {seen.message}; "
                "put it right, then --retry_failed"
            )

    def _weigh_loss(self, trial: Trial, ended: Ended) -> None:
        """A killed trial goes on, unless it is killed again and again where it stands."""
        if ended.code == include.BUSY:
            self.not_before[trial.name] = time.monotonic() + BUSY_SECONDS
            return
        further = jobs.progress_mark(trial.path) != self.mark[trial.name]
        self.in_vain[trial.name] = 0 if further else self.in_vain[trial.name] + 1
        if self.in_vain[trial.name] >= MOST_IN_VAIN:
            jobs.fail(trial.path, "oom" if ended.code == -signal.SIGKILL else "error",
                      f"killed {MOST_IN_VAIN} times by signal {-ended.code} without getting further")  # fmt: skip

    def _keep_weights(self, trials: Sequence[Trial]) -> None:
        keep = self.search.settings.keep_weights
        best = self.board.best()
        for trial in trials:
            dispensable = keep == "none" or (keep == "best" and best is not None and trial is not best)
            if dispensable and jobs.look(trial.path).state == "finished":
                jobs.drop_weights(trial.path)

    def _forget_running(self) -> None:
        for trial, slot in self.running.values():
            self.pending.append(trial)
            self.free.append(slot)
        self.running.clear()


def _arguments(trial: Trial, data_dir: Path) -> list[str]:
    """Of train.py. Decoded images are kept where all trials find them: in memory each would decode its own."""
    arguments = ["--data_dir", str(data_dir), "--model_dir", str(trial.path)]
    kept = trial.params.get("cache", "auto")
    return arguments if kept != "auto" else [*arguments, "--set", "cache=disk"]
