"""Ctrl-C, SIGTERM and SIGUSR1 during training: the first one asks, the second one ends."""

import os
import signal
from types import FrameType
from typing import Any, Final

ASKED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Signals:
    """While active, remembers the first signal so that training can stop where it can be continued.

    Attributes:
        received: the signal's number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._handle) for number in ASKED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
