"""What is asked of Slurm, by its own commands: into the queue, how is the queue, out of the queue."""

import re
import subprocess
from collections.abc import Sequence
from typing import Final, NamedTuple

from utils import UserError, printable

ALL: Final = "N/A"  # the index of what is said of all tasks of an array that never were told apart
NOBODY: Final = "-"  # no job has this name; none at all would ask for every job of the cluster
OVER: Final = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
)  # fmt: skip


class Refused(Exception):
    """sbatch did not take a job, or squeue did not answer; its text says why."""


class Task(NamedTuple):
    """A task of an array as the queue shows it: the array's number, and in which state it is."""

    job: str
    state: str


Queue = dict[tuple[str, str], Task]  # by the job's name and the task's index


def submit(options: Sequence[str], script: str) -> str:
    """Has a script run; returns the job's number.

    Raises:
        Refused: with sbatch's reason.
    """
    done = _call(["sbatch", "--parsable", *options], script)
    if done.returncode:
        raise Refused(_reason("sbatch", done))
    return done.stdout.strip().partition(";")[0]


def queue(names: Sequence[str]) -> Queue:
    """The tasks of the jobs of these names, also some minutes after their end.

    Raises:
        Refused: when Slurm does not answer.
    """
    asked = f"--name={','.join(names) or NOBODY}"
    done = _call(["squeue", "--noheader", "--array", "--states=all", "--format=%j|%K|%T|%F", asked])
    if done.returncode:
        raise Refused(_reason("squeue", done))
    rows = (line.split("|") for line in done.stdout.splitlines())
    return {(name, index): Task(job, state) for name, index, state, job in rows}


def is_over(task: Task | None) -> bool:
    """Whether a task will not run any more; of those, the queue forgets."""
    return task is None or task.state in OVER


def cancel(jobs: Sequence[str], *which: str) -> None:
    """Cancels jobs, or sends them a signal, as scancel's options say; those that are over already are no mistake."""
    _call(["scancel", "--quiet", *which, *jobs])


def longest_array() -> int:
    """How many tasks an array may have."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _call(["scontrol", "show", "config"]).stdout, re.MULTILINE)
    return int(found[1]) if found else 1001  # Slurm's own default


def _reason(program: str, done: subprocess.CompletedProcess[str]) -> str:
    return printable((done.stderr.strip() or f"{program}: exit code {done.returncode}").splitlines()[-1])


def _call(command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    try:  # out of the reach of a terminal's Ctrl-C, which is for the search
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False, start_new_session=True)
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is not there; --engine slurm works where Slurm's commands are") from error
