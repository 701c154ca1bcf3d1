"""A process that imports torch once and forks a group of processes per request, as torchrun starts them."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import include

LIMIT = 100.0  # seconds that a group may take before it counts as hanging
FROZEN_SECONDS = 15

# Which process does what, where: its index, a function, the number of its call, and one of ACTIONS.
Disturbance = tuple[int, str, int, str]


@dataclass(frozen=True)
class Ended:
    """How a group ended: exit codes by process (negative: the signal that killed it) and what they wrote."""

    codes: list[int]
    out: str
    err: str


class Group:
    """Starts the process, and asks it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        command = [sys.executable, "-W", "error", "-m", "tests.training.group"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        self._process = subprocess.Popen(
            command, text=True, cwd=include.ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def train(self, count: int, folder: Path, data: Path, *options: str, disturb: Sequence[Disturbance] = ()) -> Ended:
        """Trains with so many processes, which must end by themselves."""
        outputs = [[str(self._place / f"{name}-{index}") for name in ("out", "err")] for index in range(count)]
        arguments = ["--data_dir", str(data), "--model_dir", str(folder), *options]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([arguments, outputs, disturb]), file=self._process.stdin, flush=True)
        codes = json.loads(self._process.stdout.readline())
        out, err = ("".join(Path(files[number]).read_text() for files in outputs) for number in (0, 1))
        assert codes, f"it hangs:\n{out}{err}"
        return Ended(codes, out, err)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate(timeout=60)


# --- the process -----------------------------------------------------------------------------------------------------


def serve() -> None:
    """Answers requests, one line of JSON each, until there are no more."""
    import train
    from training.server import IMPORTED_ONCE

    for module in (*IMPORTED_ONCE, "training.distributed"):
        importlib.import_module(module)
    for line in sys.stdin:
        arguments, outputs, disturbances = json.loads(line)
        store = meeting_place(len(outputs))
        children = []
        for index, files in enumerate(outputs):
            if (pid := os.fork()) == 0:
                os.environ.update(variables(index, len(outputs), store))
                os._exit(child(train.main, arguments, files, [d for d in disturbances if d[0] == index]))
            children.append(pid)
        print(json.dumps(wait(children)), flush=True)


def meeting_place(count: int) -> Any:
    """The store that torchrun's agent would serve."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore("localhost", 0, count, is_master=True, wait_for_workers=False) if count > 1 else None


def variables(index: int, count: int, store: Any) -> dict[str, str]:
    """What torchrun puts into the environment."""
    if count == 1:
        return {}
    numbers = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    where = {"MASTER_ADDR": "localhost", "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
    return {name: str(value) for name, value in (numbers | where | {"TORCHELASTIC_RESTART_COUNT": 0}).items()}


def child(main: Any, arguments: list[str], files: list[str], disturbances: list[Disturbance]) -> int:
    """One training, in the fork."""
    for number, name in enumerate((os.devnull, *files)):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    for _, where, turn, what in disturbances:
        disturb(where, turn, what)
    code: int = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def disturb(where: str, turn: int, what: str) -> None:
    """Lets something happen before a call of a function."""
    module, _, path = where.partition(":")
    *owners, name = path.split(".")
    owner = importlib.import_module(module)
    for step in owners:
        owner = getattr(owner, step)
    original, calls = getattr(owner, name), [0]

    def disturbed(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == turn:
            ACTIONS[what]()
        return original(*args, **kwargs)

    setattr(owner, name, disturbed)


def _user_error() -> None:
    from utils import UserError

    raise UserError("one cannot read its image")


def _bug() -> None:
    raise ZeroDivisionError("a fault of the program")


def _other_data() -> None:
    from training import run

    vars(run)["fingerprint"] = lambda data: "another"


def _freeze() -> None:
    """Neither goes on nor ends, as a process on a machine that hangs."""
    subprocess.Popen(["sh", "-c", f"sleep {FROZEN_SECONDS}; kill -9 {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)


def _be_called() -> None:
    """Gets torchrun's signal once it waits for the frozen one."""
    from training import one_end

    vars(one_end)["GRACE_SECONDS"] = 1.0
    threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM)).start()


ACTIONS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "terminate": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "user error": _user_error,
    "bug": _bug,
    "other data": _other_data,
    "freeze": _freeze,
    "be called": _be_called,
}


def wait(children: list[int]) -> list[int]:
    """Their exit codes; nothing when one of them has to be killed in the end."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + LIMIT
    while len(codes) < len(children) and time.monotonic() < deadline:
        for pid in set(children) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    for pid in set(children) - set(codes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return [codes[pid] for pid in children] if len(codes) == len(children) else []


if __name__ == "__main__":
    serve()
