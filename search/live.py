"""What a person sees while a search runs: a line for each running trial, and the best one so far."""

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Final

from config.run_folder import RunFolder
from search import jobs
from search.plan import Plan, Trial
from search.terminal import Redrawn
from utils import UserError, log, positional, printable

REFRESH_SECONDS: Final = 1.0


class Board:
    """The state of a search, on the terminal; off a terminal, a line for each trial that ends.

    Args:
        search: the plan.
    """

    def __init__(self, search: Plan) -> None:
        self.search = search
        self._scores = {t.name: (t, jobs.score(t.path, search.metric)) for t in search.trials
                        if jobs.look(t.path).state == "finished"}  # fmt: skip
        self._screen = Redrawn()
        self._next = 0.0

    def finished(self) -> list[tuple[Trial, float]]:
        """The trials that have finished, each with its metric."""
        return list(self._scores.values())

    def best(self) -> Trial | None:
        """The finished trial with the best metric."""
        sign = 1 if self.search.greater else -1
        measured = [(sign * score, -trial.number, trial) for trial, score in self._scores.values() if score == score]
        return max(measured)[2] if measured else None

    def tell(self, trial: Trial) -> None:
        """Says how a trial ended."""
        seen = jobs.look(trial.path)
        if seen.state == "finished":
            self._scores[trial.name] = trial, jobs.score(trial.path, self.search.metric)
        self._screen.clear()
        message = f" ({seen.reason}): {printable(seen.message)}" if seen.state == "failed" else ""
        value = f", {self._value(trial)}" if seen.state == "finished" else ""
        log.info("%s: %s%s%s", trial.name, seen.state, message, value)

    def show(self, running: Sequence[Trial], pending: int) -> None:
        """Draws the lines of the running trials anew, at most every second."""
        if not sys.stdout.isatty() or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REFRESH_SECONDS
        best = self.best()
        leader = f"; best {best.name}: {self._value(best)}" if best else ""
        total = self.search.total
        begun = [trial for trial in running if _begun(trial)]  # a cluster has its own queue
        waiting = pending + len(running) - len(begun)
        room = shutil.get_terminal_size().lines - 2
        lines = [*map(self._line, begun[:room]), f"{len(self._scores)} of {total} finished, {waiting} waiting{leader}"]
        self._screen.draw(lines)

    def _line(self, trial: Trial) -> str:
        row = jobs.last_epoch(trial.path)
        epochs = trial.params.get("num_epochs", self.search.params.num_epochs)
        valid = row.get("valid", {})
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in valid.items() if isinstance(value, float))
        return f"  {trial.name}  epoch {row.get('epoch', 0)}/{epochs}  {numbers}"

    def _value(self, trial: Trial) -> str:
        return f"{self.search.metric} {positional(round(self._scores[trial.name][1], 4))}"


def _begun(trial: Trial) -> bool:
    try:
        return RunFolder(trial.path).status().get("state") != "queued"
    except UserError:  # damaged: the training puts it right
        return True
