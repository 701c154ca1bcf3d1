"""Where trainings run: what starts them, asks how they ended, and can stop them."""

import itertools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import include
from config.space import Combination
from utils import UserError, cores

Environment = dict[str, str]

MOST_CPU_SLOTS: Final = 8  # unless asked for more: each trial takes memory for its images and its net
SECONDS_TO_SAVE: Final = 120  # that a cluster leaves a training between asking it to stop and ending it
POLL_SECONDS: Final = 0.5
LOST: Final = "training.server ended unasked"
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Ended(NamedTuple):
    """A training that is over.

    Attributes:
        name: what it was started as.
        code: exit code; negative: the signal.
        errors: the end of what it said on stderr.
        cancelled: whether a person took it out of the queue: it is not to be started again.
        oom: whether it was ended for the memory it took; `errors` then says so.
    """

    name: str
    code: int
    errors: str
    cancelled: bool = False
    oom: bool = False


class LauncherLost(Exception):
    """The launcher is gone, and the trainings with it; its text says what is gone."""


class Launcher(Protocol):
    """What starts trainings somewhere. How a training is going, its folder tells."""

    remedy: str  # what a person can do when it is lost again and again

    def wrong(self, params: Path, combinations: Sequence[Combination]) -> list[str]:
        """What is wrong with the trials of a search, as far as only torch knows it; none where it cannot tell."""

    def held(self) -> Collection[str]:
        """The trainings that an earlier start of the search has left here, waiting or running."""

    def train(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts train.py with these arguments, or has it started soon; takes over what is held."""

    def signal(self, number: int) -> None:
        """Sends every training a signal; those that have not begun do not begin."""

    def wait(self, seconds: float) -> list[Ended]:
        """The trainings that have ended, after at most so long.

        Raises:
            LauncherLost: when it is no more.
        """

    def kill(self) -> None:
        """Ends every training at once; called from a signal's handler, before this process ends."""

    def close(self) -> None:
        """Ends the launcher; trainings that still run are stopped, and save what they have."""


# --- on this machine -------------------------------------------------------------------------------------------------


class Server:
    """`python -m training.server`, which trains each in a process of its own on this machine.

    It outlives this process only to let the trainings save what they have.

    Args:
        threads: of each training.
        spawn: start each training as a new program, instead of by forking one that has imported torch.
    """

    remedy = "--spawn goes without it"

    def __init__(self, threads: int, *, spawn: bool = False) -> None:
        self._spawn = spawn
        path = os.pathsep.join(filter(None, [str(include.ROOT), os.environ.get("PYTHONPATH")]))
        # numpy's own threads would be there before the fork, and do nothing for torch.
        limits = dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "training.server", *["--spawn"] * spawn],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | limits | {"PYTHONPATH": path},
            start_new_session=True,  # a terminal's Ctrl-C is ours to pass on
        )
        self._buffer = b""

    def wrong(self, params: Path, combinations: Sequence[Combination]) -> list[str]:
        """What is wrong with the trials of a search, as far as only torch knows it; waits until the server is up."""
        if self._spawn:
            return wrong_here(params, combinations)  # this one goes without torch
        self._ask({"check": str(params), "combinations": list(combinations)})
        while True:
            for answer in self._answers(None):
                if "problems" in answer:
                    return list(answer["problems"])

    def held(self) -> Collection[str]:
        """None: trainings end with the server, and it with who started it."""
        return ()

    def train(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts train.py with these arguments."""
        self._ask({"train": name, "arguments": list(arguments), "environment": dict(environment)})

    def train_to_the_end(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], stop: Callable[[], bool]
    ) -> Ended:
        """One training alone, which is asked to stop, and save what it has, once `stop` says so.

        Raises:
            LauncherLost: when there is no server any more.
        """
        self.train(name, arguments, environment)
        asked = False
        while True:
            for ended in self.wait(POLL_SECONDS):
                return ended
            if stop() and not asked:
                self.signal(signal.SIGTERM)
                asked = True

    def signal(self, number: int) -> None:
        """Sends every training a signal."""
        self._ask({"signal": number})

    def wait(self, seconds: float) -> list[Ended]:
        """The trainings that have ended, after at most so long.

        Raises:
            LauncherLost: when there is no server any more.
        """
        answers = self._answers(seconds)
        return [Ended(a["ended"], a["code"], a["errors"]) for a in answers if "ended" in a]

    def kill(self) -> None:
        """Leaves it to the server, which ends them when this process is gone."""

    def close(self) -> None:
        """Ends the server; trainings that still run are stopped, and save what they have."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        self._process.wait()

    def kill_unused(self) -> None:
        """Ends a server that has not been asked for a training, at once."""
        self._process.kill()
        self.close()

    def _ask(self, request: dict[str, Any]) -> None:
        pipe = self._process.stdin
        try:
            if pipe is not None:
                pipe.write(json.dumps(request).encode() + b"\n")
                pipe.flush()
        except BrokenPipeError as error:
            raise LauncherLost(LOST) from error

    def _answers(self, seconds: float | None) -> list[dict[str, Any]]:
        pipe = self._process.stdout
        if pipe is None or not select.select([pipe], [], [], seconds)[0]:
            return []
        data = os.read(pipe.fileno(), 65536)
        if not data:
            raise LauncherLost(LOST)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]


class Ahead:
    """A server that imports torch, which takes seconds, while the search is planned; unused, it ends with the block.

    Args:
        threads: of each training.
        spawn: as of Server.
    """

    def __init__(self, threads: int, *, spawn: bool = False) -> None:
        self._threads = threads
        self._server: Server | None = Server(threads, spawn=spawn)

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.kill_unused()

    def take(self, threads: int) -> Server | None:
        """The server, once, and only if it is for so many threads."""
        if threads != self._threads:
            return None
        taken, self._server = self._server, None
        return taken


def wrong_here(params: Path, combinations: Sequence[Combination]) -> list[str]:
    """What is wrong with the trials of a search, as far as only torch knows it; found out on this machine."""
    server = Server(1)
    try:
        return server.wrong(params, combinations)
    except LauncherLost:  # a login node may not have the room; the trials will tell
        return []
    finally:
        server.close()


# --- slots -----------------------------------------------------------------------------------------------------------


def slots(jobs: int | None, gpus: str, jobs_per_gpu: int) -> list[Environment]:
    """The environment of each training that may run at the same time.

    Args:
        jobs: so many; None: as many as GPUs (times jobs_per_gpu), without any as cores, at most 8.
        gpus: auto, cpu, or the numbers of the GPUs to use: 0,1.
        jobs_per_gpu: trainings that share a GPU.

    Raises:
        UserError: when gpus is none of these, or there is no GPU to share.
    """
    devices = _devices(gpus)
    if not devices:
        if jobs_per_gpu > 1:
            raise UserError(f"--jobs_per_gpu {jobs_per_gpu}: no GPU is used here; --jobs says how many train at a time")
        return [{"CUDA_VISIBLE_DEVICES": ""}] * (jobs or min(cores(), MOST_CPU_SLOTS))
    shared = [{"CUDA_VISIBLE_DEVICES": device} for _ in range(jobs_per_gpu) for device in devices]
    return [shared[index % len(shared)] for index in range(jobs or len(shared))]


def threads_per_slot(number: int) -> int:
    """Threads of each of so many trainings, so that together they take each core once."""
    fair = max(cores() // number, 1)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(fair, int(asked)) if asked.isdecimal() and int(asked) > 0 else fair


def _devices(gpus: str) -> list[str]:
    if gpus == "cpu":
        return []
    if gpus != "auto":
        numbers = [number.strip() for number in gpus.split(",")]
        if not all(map(str.isdecimal, numbers)):
            raise UserError(f"--gpus {gpus}: it must be auto, cpu, or numbers as in 0,1")
        return numbers
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        devices = visible.split(",")
        return list(itertools.takewhile(lambda device: device not in ("", "-1"), devices))  # as CUDA reads it
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return listed.stdout.split()
