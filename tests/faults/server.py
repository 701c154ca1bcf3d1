"""A process that imports torch once and forks one training per request, with faults planted in the fork."""

import contextlib
import faulthandler
import gc
import itertools
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import include
import train
from tests.conftest import write_image
from tests.faults import plants
from tests.training.runs import experiment

LIMIT = 100.0  # seconds that a training may take before it counts as hanging

Plant = tuple[str, dict[str, Any]]  # a function of tests/faults/plants.py and its arguments


@dataclass(frozen=True)
class Ended:
    """How a training ended.

    Attributes:
        code: exit code; negative: the signal that killed it.
        reached: whether it came to the moment at which it was to be disturbed.
        seconds: from the first signal to the end; without signals, the whole training.
        pid: its process id, also the id of its process group.
        out: standard output.
        err: standard error.
    """

    code: int
    reached: bool
    seconds: float
    pid: int
    out: str
    err: str


class Server:
    """Starts the process, and asks it.

    Args:
        place: a folder for the outputs of the trainings.
    """

    def __init__(self, place: Path) -> None:
        self._out, self._err = place / "out", place / "err"
        command = [sys.executable, "-W", "error", "-m", "tests.faults.server", str(place / "warm_up")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(
            command, text=True, cwd=include.ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self.trainings = 0

    def train(
        self,
        folder: Path,
        data: Path,
        *options: str,
        plants: Sequence[Plant] = (),
        signals: Sequence[tuple[float, int]] = (),
        to_the_end: bool = False,
    ) -> Ended:
        """Trains in a fork.

        Args:
            folder: the experiment.
            data: the data folder.
            options: further ones of train.py.
            plants: the faults.
            signals: (seconds to wait, number) of each signal to send, from the moment that a plant tells of on; from
                the start when none does. A negative number: to the loader workers too, as a terminal does.
            to_the_end: whether it goes through all that happens at the end of a program, which takes half a second.
        """
        request = {
            "argv": ["--data_dir", str(data), "--model_dir", str(folder), *options],
            "plants": plants,
            "signals": signals,
            "to_the_end": to_the_end,
            "out": str(self._out),
            "err": str(self._err),
        }
        print(json.dumps(request), file=self._requests, flush=True)
        answer = json.loads(self._answers.readline())
        self.trainings += 1
        ended = Ended(**answer, out=self._out.read_text(), err=self._err.read_text())
        assert ended.seconds < LIMIT, f"it hangs:\n{ended.err}"
        return ended

    def close(self) -> None:
        """Ends the process."""
        self._requests.close()
        self._process.wait(60)
        self._answers.close()


# --- the process -----------------------------------------------------------------------------------------------------


def serve(place: Path) -> None:
    """Answers requests, one line of JSON each, until there are no more."""
    warm_up(place)
    gc.freeze()  # so that the forks share its memory
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
    end(0)


def end(code: int, properly: bool = False) -> NoReturn:
    """Ends the process."""
    if properly:
        gc.unfreeze()  # what is kept from collection looks like a leak to extension modules, which say so
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def warm_up(place: Path) -> None:
    """Trains once, so that everything is imported, also what a training imports late."""
    for split, name, number in itertools.product(("train", "valid"), ("a", "b"), range(2)):
        write_image(place / "data" / split / name / f"{number}.png", number)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        code = train.main(
            ["--data_dir", str(place / "data"), "--model_dir", str(experiment(place / "x", num_epochs=1))]
        )
    assert code == 0


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Forks a training and watches it."""
    reached, reach = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(reached)
        end(child(request, reach), bool(request["to_the_end"]))
    os.close(reach)
    started, was_reached = time.monotonic(), False
    if request["signals"]:
        readable, _, _ = select.select([reached], [], [], LIMIT)
        if was_reached := bool(readable and os.read(reached, 1)):
            started = time.monotonic()
            for seconds, number in request["signals"]:
                time.sleep(seconds)
                (os.kill if number > 0 else os.killpg)(pid, abs(number))  # it is there until it is waited for
    code = wait(pid, started + LIMIT)
    os.close(reached)
    return {"code": code, "reached": was_reached, "seconds": time.monotonic() - started, "pid": pid}


def wait(pid: int, deadline: float) -> int:
    """The exit code of a child, which is killed at the deadline."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, 9)
            os.waitpid(pid, 0)
            return -9
        time.sleep(0.002)


def child(request: dict[str, Any], reach: int) -> int:
    """One training, in the fork."""
    os.setsid()  # so that what it leaves behind can be found
    for name, descriptor in ((os.devnull, 0), (request["out"], 1), (request["err"], 2)):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
        os.close(opened)
    faulthandler.dump_traceback_later(LIMIT - 5)
    plants.tell = lambda: os.write(reach, b"x")
    for name, arguments in request["plants"]:
        getattr(plants, name)(**arguments)
    if not plants.tells:
        plants.tell()
    code = train.main(request["argv"])
    for finish in plants.at_the_end:
        finish()
    return code


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
