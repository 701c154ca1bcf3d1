"""What is remembered of the files of a data folder, so that none is read again that has not changed. No torch."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import PIL

from images.shards import locate
from utils import TEMPORARY_PREFIX, TrainingFault, UserError, read_json, write_atomic

CACHE: Final = ".cache"
FILE: Final = "fingerprint.json"
SETTLED: Final = 2.0  # seconds after which a file's modification time is trusted to tell a change


class Content(NamedTuple):
    """What a file holds.

    Attributes:
        bytes: their number.
        sha256: of them, hexadecimal.
        height: of the upright image; 0 while only its bytes were read.
        width: likewise.
    """

    bytes: int
    sha256: str
    height: int = 0
    width: int = 0


class Memory:
    """The contents of a folder's files, each read once.

    They are remembered in .cache/fingerprint.json by size, modification time and inode, if the folder can be written. A
    file changed within the last seconds is read again, as its time may not tell. Threads may share one. What other
    processes found out about the folder just now can be told to it.

    Args:
        root: the data folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._cache = root / CACHE / FILE
        self._known: dict[str, list[Any]] | None = None
        self._looking = threading.Lock()
        self._told: dict[str, Content] = {}
        self._fresh: dict[str, list[Any]] = {}
        self._now = time.time()

    def known(self) -> dict[str, list[Any]]:
        """What is remembered, looked up once."""
        with self._looking:
            if self._known is None:
                self._known = _load(self._cache)
        return self._known

    def learn(self, path: str, content: Content, key: list[int] | None) -> None:
        """Takes over what another memory of this folder found just now.

        Args:
            path: of a file.
            content: of it, height and width included.
            key: what `take` of the other had for it; None: it is known, or is not to be remembered.
        """
        self._told[path] = content
        if key is not None:
            self._fresh[path] = [*content[1:], *key]

    def take(self) -> dict[str, list[int]]:
        """The files to be remembered that were found since this was asked last, and the key of each.

        A key is size, modification time in ns, inode, and of an image in a tar its offset.
        """
        fresh, self._fresh = self._fresh, {}
        return {path: entry[3:] for path, entry in fresh.items()}

    def content(self, path: str, size: Callable[[Path], tuple[int, int]] | None = None) -> Content:
        """What a file holds.

        Args:
            path: relative to the folder.
            size: reads height and width of the image, when these are wanted; its errors pass through.

        Raises:
            OSError: when the file cannot be read.
        """
        if (told := self._told.get(path)) is not None:
            return told
        member = locate(f"{self._root}/{path}")
        about = member.about if member else os.stat(f"{self._root}/{path}")  # noqa: PTH116 (a Path takes longer)
        key = [about.st_size, about.st_mtime_ns, about.st_ino]
        if member:
            key = [member.size, *key[1:], member.offset]
        settled = self._now - max(about.st_mtime, about.st_ctime) > SETTLED
        entry = self.known().get(path)
        if settled and entry is not None and entry[3:] == key and (size is None or entry[1]):
            return Content(key[0], *entry[:3])
        file = self._root / path
        height, width = (0, 0) if size is None else size(file)  # first: reading what is no regular file may never end
        sha256 = hashlib.sha256(member.read() if member else file.read_bytes()).hexdigest()
        if settled:
            self._fresh[path] = [sha256, height, width, *key]
        return Content(key[0], sha256, height, width)

    def keep(self) -> None:
        """Writes down what was learnt, if anything was; a folder that cannot be written is read anew each time."""
        if not self._fresh:
            return
        files = self.known() | self._fresh
        try:
            self._cache.parent.mkdir(exist_ok=True)
            for left in self._cache.parent.glob(f"{TEMPORARY_PREFIX}*"):  # of a process that was killed; a process
                left.unlink(missing_ok=True)  # that writes this file just now gives up, and reads again next time
            text = json.dumps({"files": files, "sha256": _digest(files)})  # to_json looks into each value
            write_atomic(self._cache, text.encode())
        except (OSError, TrainingFault):
            return


def _load(cache: Path) -> dict[str, list[Any]]:
    """What is remembered, if its own digest says that it is undamaged and as this version of Pillow saw it."""
    try:
        stored = read_json(cache)
    except UserError:
        return {}
    intact = isinstance(stored, dict) and stored.get("sha256") == _digest(stored.get("files"))
    return dict(stored["files"]) if intact else {}


def _digest(files: Any) -> str:
    text = json.dumps([PIL.__version__, files])  # of 70,000 files, and at every start: fast
    return hashlib.sha256(text.encode()).hexdigest()
