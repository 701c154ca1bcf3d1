"""A task of a Slurm job: trains what todo.json lists for it, one after the other, and notes how each ended.

python -m search.slurm_task experiments/x/slurm/x-1a2b3c4d

A training that was stopped is not noted: Slurm may start the task once more, and then it goes on. A signal comes in one
of two ways. USR1, from the search or because the time is nearly up, comes to this process alone, which passes it on.
TERM, when the job is cancelled or put back into the queue, comes to every process of the job.
"""

import os
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path
from types import FrameType
from typing import Final

import include
from search.launchers import POLL_SECONDS, Ended, LauncherLost, Server
from search.slurm import ASK, NOTE, TODO, Todo
from utils import UserError, read_json, to_json, write_atomic

STOPPED: Final = (-signal.SIGTERM, 128 + signal.SIGTERM)


def main() -> int:
    """Trains; returns 0 also when it was stopped, so that only a task that could not run counts as failed."""
    folder = Path(sys.argv[1])
    try:
        tasks = read_json(folder / TODO)
    except UserError:
        return include.DONE  # the search has taken it back
    left = [t for t in tasks[int(os.environ["SLURM_ARRAY_TASK_ID"])] if not (folder / f"{t['name']}{NOTE}").exists()]
    asked = set[int]()

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.add(number)

    while left and not asked:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by the server too, whose trainings have yet to save
        server = Server(int(os.environ.get("SLURM_CPUS_PER_TASK", "1")), spawn=len(left) == 1)
        for number in (signal.SIGTERM, ASK):
            signal.signal(number, ask)
        try:
            _train(server, folder, left, asked)
        finally:
            server.close()
    return include.DONE


def _train(server: Server, folder: Path, left: list[Todo], asked: Collection[int]) -> None:
    """Trains until all have ended, a signal asks to stop, or the server may have gone with a killed training."""
    while left and not asked:
        try:
            one = left[0]["name"], left[0]["arguments"], left[0]["environment"]
            ended = server.train_to_the_end(*one, lambda: ASK in asked)
        except LauncherLost as error:
            ended = Ended(left[0]["name"], -signal.SIGKILL, str(error))
        if ended.code in STOPPED:
            time.sleep(POLL_SECONDS)  # what stopped it may reach this process a little later
            if asked:
                return
        write_atomic(folder / f"{ended.name}{NOTE}", to_json(ended._asdict()))
        del left[0]
        if ended.code == -signal.SIGKILL:
            return


if __name__ == "__main__":
    raise SystemExit(main())
