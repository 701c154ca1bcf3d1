"""Decoded images in a file: <root>/.cache/<split>-<view>-<data>/, the two parts of its name being digests.

    pixels.bin  (N, 2) int32 heights and widths, then the images one after another, (H, W, C) uint8 each
    store.json  what it was made from, the sha256 of each 16 MiB of pixels.bin, and the sha256 of all this

It is written under a name of its own and renamed when whole, by one process at a time; others wait. Where a file system
keeps no locks between machines several may write at once, which costs time, and none ever reads what is not whole. All
of it is hashed again at each opening (0.9 GB/s and core; it reads in what the first epoch needs anyway), so that damage
of any kind, a torn write after a power cut too, is noticed before a pixel is used, and the store is built anew. It does
not go through utils.write_atomic, which would hold it in memory and wait for the device: nothing is lost with a store
that the image files do not give again.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL
import torch
from numpy.typing import NDArray

from images.memory import CACHE
from images.stream import ENOUGH, Indices, Source
from images.view import Pixels
from utils import log, to_json

LAYOUT: Final = 1  # of pixels.bin
BLOCK: Final = 2**24  # bytes hashed at a time
PIXELS: Final = "pixels.bin"
INDEX: Final = "store.json"

Put = Callable[[int, Pixels], None]
Found = tuple[NDArray[np.uint8], dict[int, str]]  # all bytes, mapped, and why which images were left out


class DiskStore:
    """The place of one store, whether it exists or not.

    Args:
        source: the images; their sizes are filled in by `load`, and must be there before `build`.
        skip_bad: whether unreadable images are left out.
        fingerprint: of the split's files.
        threads: that hash.
    """

    def __init__(self, source: Source, skip_bad: bool, fingerprint: str, threads: int) -> None:
        self._source, self._threads = source, threads
        view = dataclasses.asdict(source.view) | {"max_megapixels": source.max_megapixels, "skip_bad": skip_bad}
        paths = hashlib.sha256(to_json(source.split.paths)).hexdigest()
        reduced = {"enough": ENOUGH} if source.view.training else {}
        made_by = reduced | {"layout": LAYOUT, "pillow": PIL.__version__, "torch": torch.__version__}
        self._what = json.loads(to_json({"view": view, "fingerprint": fingerprint, "paths": paths} | made_by))
        self._slot = source.root / CACHE / f"{source.split.name}-{_digest(view)[:8]}"
        self.path = self._slot.with_name(f"{self._slot.name}-{_digest(self._what)[:16]}")

    @property
    def offsets(self) -> Indices:
        """(N,) int64: where each image begins in pixels.bin."""
        return self._source.sizes.size * 4 + self._source.offsets

    def load(self) -> Found | None:
        """The store, if there is a whole one; fills in the source's sizes."""
        if not os.path.isdir(self.path):  # noqa: PTH112 (Path's raises where a folder may not be entered)
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            index = json.loads((self.path / INDEX).read_bytes())
            told = index.pop("sha256")
            if told == _digest(index) and index["blocks"] == _hash_blocks(self.path / PIXELS, self._threads):
                return self._map({int(position): reason for position, reason in index["dropped"].items()})
        log.warning("%s: the decoded images there are damaged; they are decoded again", self.path)
        return None

    def build(self, decode_all: Callable[[Put], dict[int, str]]) -> Found:
        """Makes the store, unless another process does so meanwhile.

        Args:
            decode_all: hands each image to the function it is given, from several threads; returns why which were
                left out.

        Raises:
            OSError: when it cannot be written.
        """
        self.path.parent.mkdir(exist_ok=True)
        with _alone(self._slot.with_suffix(".lock")):
            if found := self.load():
                return found
            for left in self.path.parent.glob(f"{self._slot.name}.building-*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            building = self._slot.with_suffix(f".building-{uuid.uuid4().hex[:12]}")
            try:
                dropped = self._write(building, decode_all)
                for outdated in self.path.parent.glob(f"{self._slot.name}-*"):
                    if outdated == self.path or not _in_use(outdated):
                        shutil.rmtree(outdated, ignore_errors=True)
                building.rename(self.path)
            finally:
                shutil.rmtree(building, ignore_errors=True)
            return self._map(dropped)

    def _map(self, dropped: dict[int, str]) -> Found:
        with (self.path / PIXELS).open("rb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            pixels = np.memmap(file, np.uint8, "r")  # it holds the file, and so the lock, as long as it is there
        self._source.sizes[:] = pixels[: self._source.sizes.size * 4].view(np.int32).reshape(-1, 2)
        return pixels, dropped

    def _write(self, folder: Path, decode_all: Callable[[Put], dict[int, str]]) -> dict[int, str]:
        size = self._source.sizes.size * 4 + self._source.nbytes
        if size > (free := shutil.disk_usage(self.path.parent).free) / 2:
            raise OSError(errno.ENOSPC, f"{size / 2**30:.1f} GB would take over half of the {free / 2**30:.1f} GB free")
        folder.mkdir()
        offsets = self.offsets
        with (folder / PIXELS).open("wb") as file:
            file.truncate(size)
            file.write(self._source.sizes.astype(np.int32).tobytes())
            file.flush()
            dropped = decode_all(lambda index, image: _write_at(file.fileno(), int(offsets[index]), image))
        index = {
            "what": self._what,
            "dropped": {str(position): why for position, why in dropped.items()},
            "blocks": _hash_blocks(folder / PIXELS, self._threads),
        }
        (folder / INDEX).write_bytes(to_json(index | {"sha256": _digest(index)}))
        return dropped


def _digest(value: Any) -> str:
    return hashlib.sha256(to_json(value)).hexdigest()


def _write_at(descriptor: int, offset: int, image: Pixels) -> None:
    if os.pwrite(descriptor, image.data, offset) != image.nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _hash_blocks(path: Path, threads: int) -> list[str]:
    with path.open("rb") as file, ThreadPoolExecutor(threads) as pool:
        starts = range(0, os.fstat(file.fileno()).st_size, BLOCK)
        return list(pool.map(lambda start: hashlib.sha256(os.pread(file.fileno(), BLOCK, start)).hexdigest(), starts))


def _in_use(store: Path) -> bool:
    """Whether a process has the pixels mapped; a store of somebody else's counts as in use."""
    try:
        with (store / PIXELS).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock that the system frees when the process ends."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: waiting for another process that decodes these images", path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            log.warning("%s: has no locks; others may decode these images at the same time", path.parent)
        yield
