"""Trainings as jobs of Slurm: an array of tasks for all that are asked for together, each a training or a few.

What is submitted at once is a batch. It has a folder, slurm/<batch>/ in the search's own: todo.json says what each task
trains, <name>.ended.json how a training ended, and there are the tasks' logs. The job has the batch's name, so a search
that is started again finds in the queue what is left of it; and a task that finds no todo.json does nothing.
"""

import contextlib
import re
import secrets
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import include
from config.space import Combination
from search import slurm_commands as commands
from search.launchers import SECONDS_TO_SAVE, Ended, wrong_here
from utils import UserError, log, make_folder, read_json, to_json, write_atomic

FOLDER: Final = "slurm"
TODO: Final = "todo.json"
NOTE: Final = ".ended.json"
ASK: Final = signal.SIGUSR1  # asks a task to stop: it alone is told, while Slurm's TERM goes to all processes of a job
ASK_NAME: Final = ASK.name.removeprefix("SIG")
POLL_SECONDS: Final = 10.0
POLL_SECONDS_AT_THE_END: Final = 1.0
RETRY_SECONDS: Final = 30.0
LONGEST_MESSAGE: Final = 4000  # characters of a task's log

Todo = dict[str, Any]  # a training: name, arguments, environment


@dataclass
class Batch:
    """What was submitted at once.

    Attributes:
        folder: its own.
        tasks: the names of each task's trainings.
        open: the names of those that have not ended.
        job: its number in the queue.
    """

    folder: Path
    tasks: list[list[str]]
    open: set[str]
    job: str

    @property
    def name(self) -> str:
        """That of its folder and of its job."""
        return self.folder.name

    def unfinished(self) -> list[int]:
        """The tasks that have trainings to come."""
        return [index for index, names in enumerate(self.tasks) if not self.open.isdisjoint(names)]

    def noted(self) -> list[Ended]:
        """The trainings whose ends were noted since the last time."""
        found = []
        for path in sorted(self.folder.glob(f"*{NOTE}")):
            if (name := path.name.removesuffix(NOTE)) in self.open:
                note = read_json(path)
                self.open.remove(name)
                found.append(Ended(name, note["code"], note["errors"]))
        return found


class Slurm:
    """Trainings as jobs of Slurm. They outlive this process: the next one takes over what is in the queue.

    Args:
        parent: the search's folder.
        cpus: cores of each training.
        gpus: GPUs of each training.
        jobs: at the same time; None: as many as Slurm lets run.
        pack: trainings of a task, one after the other.
        sbatch: further options of sbatch, as one would type them.

    Raises:
        UserError: without Slurm.
    """

    remedy = "sinfo says how the cluster is"

    def __init__(
        self, parent: Path, *, cpus: int = 1, gpus: int = 0, jobs: int | None = None, pack: int = 1, sbatch: str = ""
    ) -> None:
        self._folder = parent.resolve() / FOLDER
        self._jobs, self._pack = jobs, pack
        self._options = _options(cpus, gpus, sbatch)
        self._longest = commands.longest_array()
        self._waiting: list[Todo] = []
        self._given_up: list[Ended] = []
        self._taken: set[str] = set()  # what the search was promised to hear of
        self._leaving: set[tuple[str, int]] = set()  # tasks that were ended before this process came
        self._asked = False
        self._silent = False  # Slurm, when it was asked last
        self._next_poll = self._next_try = 0.0
        self._batches = self._find_batches()

    def wrong(self, params: Path, combinations: Sequence[Combination]) -> list[str]:
        """What is wrong with the trials of a search, as far as only torch knows it: asked on this machine."""
        return wrong_here(params, combinations)

    def held(self) -> Collection[str]:
        """The trainings that an earlier start of the search has left in the queue."""
        return set[str]().union(*(batch.open for batch in self._batches)) - self._taken

    def train(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Has train.py started with these arguments soon, unless it is in the queue already."""
        if name not in self.held():
            self._waiting.append({"name": name, "arguments": list(arguments), "environment": dict(environment)})
        self._taken.add(name)

    def signal(self, number: int) -> None:
        """Has every training stop, whatever the signal; those that have not begun do not begin."""
        self._asked = True
        self._given_up += [Ended(todo["name"], -number, "") for todo in self._waiting]
        self._waiting.clear()
        self._next_poll = 0.0

    def wait(self, seconds: float) -> list[Ended]:
        """The trainings that have ended, after at most so long and what Slurm takes to answer.

        Raises:
            UserError: when sbatch refuses.
        """
        self._submit()
        ended, self._given_up = self._given_up, []
        for batch in self._batches:
            ended += batch.noted()
        if time.monotonic() >= self._next_poll:
            if self._asked:
                self._ask()
            ended += self._over()
            self._next_poll = time.monotonic() + (POLL_SECONDS_AT_THE_END if self._asked else POLL_SECONDS)
        for batch in [batch for batch in self._batches if not batch.open]:
            self._forget(batch)
        ended = [one for one in ended if one.name in self._taken]
        self._taken.difference_update(one.name for one in ended)
        if not ended:
            time.sleep(seconds)
        return ended

    def kill(self) -> None:
        """Ends every job, without waiting for what its trainings have to save."""
        if jobs := self._live_jobs():
            commands.cancel(jobs)

    def close(self) -> None:
        """Stops the trainings that still run, without waiting for them: they save what they have."""
        if not self._asked:
            self._ask()
        with contextlib.suppress(OSError):  # where something is left in it
            self._folder.rmdir()

    # --- into the queue ---

    def _submit(self) -> None:
        """Submits what waits, as far as there is room."""
        while self._waiting and time.monotonic() >= self._next_try:
            under_way = sum(len(batch.unfinished()) for batch in self._batches)
            room = self._jobs - under_way if self._jobs else None
            if room is not None and room <= 0:
                return
            now, later = self._waiting[: self._longest * self._pack], self._waiting[self._longest * self._pack :]
            tasks = [now[start : start + self._pack] for start in range(0, len(now), self._pack)]
            try:
                self._batches.append(self._submit_batch(tasks, room))
            except commands.Refused as error:
                if not under_way and not self._silent:
                    raise UserError(str(error)) from error
                log.warning("%s; trying again", error)
                self._next_try = time.monotonic() + RETRY_SECONDS
                return
            self._waiting = later

    def _submit_batch(self, tasks: list[list[Todo]], room: int | None) -> Batch:
        name = f"{re.sub(r'[^A-Za-z0-9._-]', '_', self._folder.parent.name)[:40]}-{secrets.token_hex(4)}"
        folder = self._folder / name
        make_folder(folder)
        write_atomic(folder / TODO, to_json(tasks))
        array = f"0-{len(tasks) - 1}" + (f"%{room}" if room is not None else "")
        output = str(folder).replace("%", "%%") + "/%a.log"
        script = (
            f"#!/bin/sh\ntrap '' {ASK_NAME}\nexport PYTHONPATH={shlex.quote(str(include.ROOT))}\n"
            f"exec {shlex.quote(sys.executable)} -P -m search.slurm_task {shlex.quote(str(folder))}\n"
        )
        try:
            job = commands.submit(
                [*self._options, f"--job-name={name}", f"--array={array}", f"--output={output}"], script
            )
        except commands.Refused:
            _remove(folder)
            raise
        names = [[todo["name"] for todo in task] for task in tasks]
        return Batch(folder, names, {name for task in names for name in task}, job)

    # --- out of the queue ---

    def _over(self) -> list[Ended]:
        """The trainings whose tasks are over though nobody noted how they ended."""
        try:
            queue = commands.queue([batch.name for batch in self._batches])
        except commands.Refused as error:
            if not self._silent:
                log.warning("%s; waiting for Slurm, while its jobs go on", error)
            self._silent = True
            return []
        self._silent = False
        found = []
        for batch in self._batches:
            found += batch.noted()  # what was noted before the queue was asked
            for index in batch.unfinished():
                task = queue.get((batch.name, str(index))) or queue.get((batch.name, commands.ALL))
                if commands.is_over(task):
                    found += self._lost(batch, index, task.state if task else "gone")
        return found

    def _lost(self, batch: Batch, index: int, state: str) -> list[Ended]:
        """A task's trainings that have not ended by themselves."""
        lost = [name for name in batch.tasks[index] if name in batch.open]
        batch.open.difference_update(lost)
        if self._asked:
            return [Ended(name, -signal.SIGTERM, "") for name in lost]
        log.info("%s: its job is over (%s_%d, %s)", ", ".join(lost), batch.job, index, state.lower())
        if state == "OUT_OF_MEMORY":  # by the first of them; the others had not begun
            said = "its job took more memory than it was given; --sbatch='--mem=…' asks for more"
            return [Ended(name, -signal.SIGTERM, said, oom=name == lost[0]) for name in lost]
        if state != "FAILED":
            cancelled = state == "CANCELLED" and (batch.name, index) not in self._leaving
            return [Ended(name, -signal.SIGTERM, "", cancelled) for name in lost]
        said = f"job {batch.job}_{index} could not run"
        with contextlib.suppress(OSError):
            said = (batch.folder / f"{index}.log").read_text("utf-8", "replace").strip()[-LONGEST_MESSAGE:] or said
        return [Ended(name, 1, said) for name in lost]

    def _ask(self) -> None:
        """Has the queue give up what has not begun, and asks what runs to stop; once more does no harm."""
        if jobs := self._live_jobs():
            commands.cancel(jobs, "--state=PENDING")
            commands.cancel(jobs, "--state=RUNNING", "--batch", f"--signal={ASK_NAME}")

    def _live_jobs(self) -> list[str]:
        return [batch.job for batch in self._batches if batch.open]

    def _forget(self, batch: Batch) -> None:
        self._batches.remove(batch)
        _remove(batch.folder)

    def _find_batches(self) -> list[Batch]:
        """What earlier starts of the search have left in the queue; the folders of all else are removed."""
        folders = [path for path in self._folder.glob("*") if path.is_dir()]
        try:
            queue = commands.queue([folder.name for folder in folders])
        except commands.Refused as error:
            raise UserError(f"{error}; scontrol ping says how Slurm is") from error
        found = []
        for folder in folders:
            live = {int(index): task for (name, index), task in queue.items()
                    if name == folder.name and not commands.is_over(task)}  # fmt: skip
            if live and (folder / TODO).is_file():
                names = [[todo["name"] for todo in task] for task in read_json(folder / TODO)]
                batch = Batch(folder, names, {n for index in live for n in names[index]}, next(iter(live.values())).job)
                batch.noted()
                found.append(batch)
                self._leaving |= {(batch.name, index) for index, task in live.items() if task.state == "COMPLETING"}
            else:
                _remove(folder)
        return found


def _remove(folder: Path) -> None:
    """Removes a batch's folder; should Slurm have a task of it after all, that finds nothing to do."""
    (folder / TODO).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _options(cpus: int, gpus: int, sbatch: str) -> list[str]:
    """Of sbatch: what each training asks for, and what a person adds."""
    try:
        own = shlex.split(sbatch)
    except ValueError as error:
        raise UserError(f"--sbatch {sbatch}: {error}") from error
    asked = [f"--gres=gpu:{gpus}"] if gpus else []
    return [
        *("--nodes=1", "--ntasks=1", f"--cpus-per-task={cpus}", *asked, "--requeue", "--open-mode=append"),
        *(f"--signal=B:{ASK_NAME}@{SECONDS_TO_SAVE}", f"--chdir={Path.cwd()}"),
        *own,
    ]
