"""How several processes end by one exception: the first that meets one tells the others, through the store they share.

A process that waits for another in a computation on a GPU hears no signal, and not that the other is gone. So a thread
looks too, and ends a process that was called for and does not come.
"""

import json
import os
import platform
import select
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import distributed as dist

from config.run_folder import RunFolder
from training.signals import ASKED
from utils import BusyError, Interrupted, TrainingFault, UserError

FAILURE: Final = "failure"  # where in the store the first one is told
TOLD_SECONDS: Final = 3.0  # in which a process that leaves has told why
POLL_SECONDS: Final = 0.02
WATCH_SECONDS: Final = 1.0  # between two looks of the thread
GRACE_SECONDS: Final = 20.0  # for a process that is called for; torchrun kills it after 30

KINDS: Final[dict[str, type[Exception]]] = {
    kind.__name__: kind for kind in (BusyError, UserError, torch.OutOfMemoryError)
}


class CutOffError(Exception):
    """Another process has left."""


class OneEnd:
    """What this process knows of the end of all.

    Args:
        store: that the processes share.
        index: which one this is.
        count: how many there are.

    Attributes:
        folder: where a process that has to be ended leaves its state.
        record: what was told of the exception by which all end, once this one is on its way out.
    """

    def __init__(self, store: Any, index: int, count: int) -> None:
        self._store, self._index, self._count = store, index, count
        self.folder: RunFolder | None = None
        self.record: dict[str, Any] | None = None
        self._alive = 0.0
        self._over = threading.Event()

    @property
    def is_mine(self) -> bool:
        """Whether the exception was met here first."""
        return self.record is not None and self.record["process"] == self._index

    def told(self) -> dict[str, Any] | None:
        """What another process has told of its exception, if one has."""
        return json.loads(self._store.get(FAILURE)) if self._store.check([FAILURE]) else None

    def shared(self, error: BaseException) -> BaseException:
        """The exception by which all processes end: this one, or that of the process which told of one before."""
        if self.record is not None:
            return error  # on its way out
        for number in ASKED:  # torchrun ends the others once one has left, and what is left to do is short
            signal.signal(number, signal.SIG_IGN)
        self._over.set()
        deadline = time.monotonic() + TOLD_SECONDS * _is_cut_off(error)
        mine = self._told_of(error)
        try:
            while time.monotonic() < deadline and self.told() is None:
                time.sleep(POLL_SECONDS)
            self.record = json.loads(self._store.compare_set(FAILURE, "", json.dumps(mine)))
        except RuntimeError:  # the store is gone with the machine it was on
            self.record = mine
        return error if self.is_mine and not _is_cut_off(error) else _rebuilt(self.record)

    def _told_of(self, error: BaseException) -> dict[str, Any]:
        """What the others need to know of an exception."""
        record = {"process": self._index, "kind": "TrainingFault", "message": str(error), "signal": None}
        record |= {"state": "failed", "reason": "error", "code": TrainingFault.exit_code}
        record["details"] = "".join(traceback.format_exception(error))
        if isinstance(error, KeyboardInterrupt):
            number = error.exit_code - 128 if isinstance(error, Interrupted) else int(signal.SIGINT)
            interrupted = {"kind": "Interrupted", "state": "stopped", "reason": "signal"}
            return record | interrupted | {"signal": number, "code": 128 + number}
        if isinstance(error, UserError):
            kind = BusyError if isinstance(error, BusyError) else UserError
            return record | {"kind": kind.__name__, "reason": "invalid", "code": error.exit_code}
        if isinstance(error, torch.OutOfMemoryError):
            return record | {"kind": "OutOfMemoryError", "reason": "oom"}
        if isinstance(error, TrainingFault):
            return record | {"reason": error.reason}
        if _is_cut_off(error):
            late = "imed out" in str(error)
            what = "does not answer" if late else "is gone: it was killed, or its machine failed"
            message = f"one of the {self._count} processes {what}; the same command goes on"
            return record | {"message": message, "reason": "timeout" if late else "error"}
        first_line = f"{type(error).__name__}: {error}".partition("\n")[0]
        return record | {"message": f"process {self._index} on {platform.node()}: {first_line}"}

    # --- the thread ---

    def watch(self) -> None:
        """Begins to look; the main thread calls it, which signals go to."""
        heard, tell = os.pipe()
        for descriptor in (heard, tell):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        threading.Thread(target=self._look, args=(heard,), daemon=True).start()

    def alive(self) -> None:
        """Shows that this process goes on."""
        self._alive = time.monotonic()

    def over(self) -> None:
        """Ends the looking."""
        self._over.set()
        signal.set_wakeup_fd(-1)

    def _look(self, heard: int) -> None:
        called = 0.0
        while not self._over.is_set():
            select.select([heard], [], [], WATCH_SECONDS)
            try:
                record = self.told()
            except RuntimeError:
                record = self._told_of(CutOffError())
            if not called and (record is not None or _signalled(heard)):
                called = time.monotonic()
            if called and self._alive < called < time.monotonic() - GRACE_SECONDS:
                self._end(record or self._told_of(CutOffError()))

    def _end(self, record: Mapping[str, Any]) -> None:
        if self.folder is not None:
            self.folder.set_state(record["state"], reason=record["reason"], message=record["message"])
        os.write(2, f"{record['message']}\n".encode())
        os._exit(record["code"])


def _signalled(heard: int) -> bool:
    try:
        return any(number in ASKED for number in os.read(heard, 4096))
    except BlockingIOError:
        return False


def _is_cut_off(error: BaseException) -> bool:
    """Whether an exception says no more than that another process has left."""
    lost = isinstance(error, RuntimeError) and ("gloo" in str(error) or "NCCL" in str(error))
    return lost or isinstance(error, CutOffError | dist.DistError)


def _rebuilt(record: Mapping[str, Any]) -> BaseException:
    """The exception that another process told of."""
    if record["kind"] == "Interrupted":
        return Interrupted(record["signal"], record["message"])
    if record["kind"] == "TrainingFault":
        return TrainingFault(record["message"], record["reason"])
    return KINDS[record["kind"]](record["message"])
