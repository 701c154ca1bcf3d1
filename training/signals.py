"""Ctrl-C, SIGTERM and SIGUSR1: the first one asks to stop, the second one ends."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

from utils import Interrupted

ASKED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Signals:
    """While active, the first signal raises Interrupted wherever the program is; inside `held` it waits.

    Args:
        message: what a person is told.
        insistent: whether the second signal ends the process; torchrun sends one more when a process has left.

    Attributes:
        received: the signal's number, or None.
        at_last: called before a second signal ends the program.
    """

    def __init__(self, message: str, insistent: bool = True) -> None:
        self.message = message
        self.insistent = insistent
        self.received: int | None = None
        self.at_last: Callable[[], None] = lambda: None
        self._held = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._handle) for number in ASKED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Leaves it to the block when to stop; what it does not see is heeded at its end."""
        self._heed()
        self._held = True
        yield
        self._held = False
        self._heed()

    def _heed(self) -> None:
        if self.received is not None:
            raise Interrupted(self.received, self.message)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            if not self.insistent:
                return
            self.at_last()
            os._exit(128 + number)
        self.received = number
        if not self._held:
            self._heed()
