"""Reads a data folder in other processes, while this one imports torch, which takes seconds and one core.

A header is read in Python, so that threads would take turns; processes use all cores. They tell what they find, keep
nothing, and end when nobody listens. What they did not tell is read by whoever needs it.
"""

import contextlib
import gc
import io
import itertools
import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import include
from images.folder import CHUNK, scan
from images.memory import Content, Memory
from images.read import ImageError, read_header
from utils import cores, progress

MOST: Final = 8  # processes that read
NICE: Final = 5  # they leave a core to the program where there is not one for each (and so does a session of their own)
PIPE: Final = 2**20  # bytes it holds where that can be chosen: what is told during a long import
REFRESH: Final = 0.1  # seconds between two looks at how far they are


class Reading:
    """A data folder that is being read.

    Args:
        root: the folder.
        reader: a process that leads a group of its own, and whose output is that of `tell`; None: nobody reads.
    """

    def __init__(self, root: Path, reader: subprocess.Popen[bytes] | None) -> None:
        self.root = root
        self._reader = reader
        self._told, self._lines = bytearray(), 0
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def memory(self, images: int) -> Memory:
        """What was found; waits until all is.

        Args:
            images: how many there are, for the bar.
        """
        with progress((), "reading images", total=images, unit="image") as bar:
            while self._listener.is_alive():
                self._listener.join(REFRESH)
                bar.update(self._lines - bar.n)
        self.stop()
        told, self._told = io.BytesIO(self._told), bytearray()
        memory = Memory(self.root)
        with contextlib.suppress(ValueError):  # the last line of a reader that was killed
            for line in told:
                path, content, key = json.loads(line)
                memory.learn(path, Content(*content), key)
        return memory

    def stop(self) -> None:
        """Ends the readers, however far they are."""
        if self._reader is not None and self._reader.stdout is not None:
            if self._reader.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter on macOS, where all ended
                    os.killpg(self._reader.pid, signal.SIGKILL)
            self._reader.wait()  # its time counts as this process's own from here on
            self._listener.join()
            self._reader.stdout.close()

    def _listen(self) -> None:
        """In large pieces: for each, the thread waits until a program that is importing lets it run."""
        if self._reader is not None and self._reader.stdout is not None:
            while piece := os.read(self._reader.stdout.fileno(), PIPE):
                self._told += piece
                self._lines += piece.count(b"\n")


@contextlib.contextmanager
def reading_ahead(data_dir: Path) -> Iterator[Reading]:
    """A data folder that is read from now on, where that gains time: torch is yet to come, and there are two cores."""
    gains = "torch" not in sys.modules and cores() > 1
    reading = Reading(data_dir, _start(data_dir, min(MOST, cores())) if gains else None)
    try:
        yield reading
    finally:
        reading.stop()


def _start(data_dir: Path, processes: int) -> subprocess.Popen[bytes] | None:
    command = [sys.executable, "-m", "images.read_ahead", str(data_dir.absolute()), str(processes)]
    quiet = subprocess.DEVNULL  # what is wrong with the folder is told by whoever needs it
    try:
        return subprocess.Popen(
            command, cwd=include.ROOT, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, pipesize=PIPE,
            start_new_session=True,
        )  # fmt: skip
    except OSError:  # so many processes are not allowed
        return None


# --- in the reader ---------------------------------------------------------------------------------------------------


def tell(root: Path, processes: int, pipe: int) -> None:
    """Reads headers and bytes of the images to train and validate on.

    Args:
        root: the data folder.
        processes: that share the work: this one, and others that it starts.
        pipe: gets a line of JSON for each image, the arguments of Memory.learn; nothing for one that cannot be read.

    Raises:
        UserError: what is wrong with the folder. BrokenPipeError: nobody listens any more.
    """
    memory = Memory(root)
    memory.known()  # now, and not in each process
    paths = [path for split in scan(root).splits.values() for path in split.paths]
    started: list[int] = []
    while len(started) < processes - 1 and (child := os.fork()):
        started.append(child)
    share = len(started)  # the last is that of the process that has started the others
    # Neighbours together: so is what is remembered of them, and a process copies of that only what it looks up.
    mine = (paths[start : start + CHUNK] for start in range(share * CHUNK, len(paths), processes * CHUNK))
    block = b""
    for path in itertools.chain.from_iterable(mine):
        try:
            content = memory.content(path, _size)
        except (OSError, ImageError):
            continue
        line = json.dumps([path, content, memory.take().get(path)]).encode() + b"\n"
        if len(block) + len(line) > select.PIPE_BUF:
            os.write(pipe, block)
            block = b""
        if len(line) <= select.PIPE_BUF:  # else others might write in between
            block += line
    os.write(pipe, block)
    if share == processes - 1:
        for child in started:
            os.waitpid(child, 0)


def _size(file: Path) -> tuple[int, int]:
    header = read_header(file, math.inf)
    return header.height, header.width


if __name__ == "__main__":
    os.nice(NICE)
    gc.disable()  # it would touch, and so copy, what the processes share
    tell(Path(sys.argv[1]), int(sys.argv[2]), sys.stdout.fileno())
