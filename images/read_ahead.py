"""Reads a data folder in a process of its own, while this one imports torch, which takes seconds and one core.

What it finds out is in the folder's memory by then, or as much as it had time for. Nothing else depends on it.
"""

import contextlib
import itertools
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

import include
from images.folder import scan
from images.memory import CACHE, FILE, Memory
from images.read import ImageError, read_header
from utils import cores

PATIENCE: Final = 5  # seconds for writing down what it found


@contextlib.contextmanager
def reading_ahead(data_dir: Path) -> Iterator[None]:
    """Looks through a data folder meanwhile, where that gains time: it is new, torch is to come, two cores."""
    reader = _reader(data_dir)
    try:
        yield
    finally:
        if reader is not None:
            _end(reader)


def _reader(data_dir: Path) -> subprocess.Popen[bytes] | None:
    """The process; none where nothing is to be gained, or it cannot be started."""
    known = os.path.exists(data_dir / CACHE / FILE)  # noqa: PTH110 (a Path's raises where it may not look)
    if known or "torch" in sys.modules or not os.access(data_dir, os.W_OK) or cores() == 1:
        return None
    quiet = subprocess.DEVNULL  # what is wrong with the folder is told by whoever needs it
    command = [sys.executable, "-m", "images.read_ahead", os.path.abspath(data_dir), str(os.getpid())]  # noqa: PTH100
    try:
        return subprocess.Popen(command, cwd=include.ROOT, stdin=quiet, stdout=quiet, stderr=quiet)
    except OSError:  # so many processes are not allowed
        return None


def _end(reader: subprocess.Popen[bytes]) -> None:
    reader.terminate()
    try:
        reader.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        reader.kill()
        reader.wait()


def read(root: Path, parent: int) -> None:
    """Reads headers and bytes of the images to train and validate on, until told to stop or left alone.

    Args:
        root: the data folder.
        parent: the process for which it reads.

    Raises:
        SystemExit: it was told to stop; what it found is kept.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the one who started it
    signal.signal(signal.SIGTERM, _stop)
    memory = Memory(root)
    try:
        for path in itertools.chain.from_iterable(split.paths for split in scan(root).splits.values()):
            if os.getppid() != parent:
                break
            with contextlib.suppress(OSError, ImageError):
                memory.content(path, _size)
    finally:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        finally:  # also when it came just then
            memory.keep()


def _size(file: Path) -> tuple[int, int]:
    header = read_header(file, math.inf)
    return header.height, header.width


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit


if __name__ == "__main__":
    read(Path(sys.argv[1]), int(sys.argv[2]))
