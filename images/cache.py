"""The store of decoded images: each file is decoded once and kept as uint8, in memory or on disk, within a budget.

What a store answers is the same whichever kind it is. On disk images are decoded before the first is used, in memory
when they are first needed, while others are trained on.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from config.schema import Params
from images.disk_store import DiskStore, Put
from images.folder import DataFolder, Split
from images.read import ImageError
from images.stream import Dropped, Indices, Source, StreamedStore, free_memory, stack
from images.view import Pixels, View
from utils import UserError, log, printable, progress

__all__ = ["FlatStore", "Store", "StreamedStore", "View", "open_store", "subset"]

CHUNK: Final = 16  # images that a thread takes at a time where all are gone through
FEW: Final = 4  # where some are waited for
CHUNKS_AHEAD: Final = 8  # for each thread
GIGABYTE: Final = 2**30


class Arriving:
    """Images that are decoded by threads when they are first needed, each once.

    Args:
        decode: decodes an image and puts it where it belongs.
        count: of the images.
        threads: that do it.
    """

    def __init__(self, decode: Callable[[int], None], count: int, threads: int) -> None:
        self._decode, self._threads = decode, threads
        self._missing = np.ones(count, bool)  # nobody has asked for them
        self._coming: dict[int, Future[None]] = {}
        self._pool = ThreadPoolExecutor(threads)

    def ahead(self, size: int) -> int:
        """How many batches of so many images to ask for before they are needed."""
        return 1 + self._threads * CHUNKS_AHEAD * FEW // size

    def ask(self, indices: Indices) -> None:
        """Sets the threads on those that nobody has asked for yet."""
        new = np.unique(indices[self._missing[indices]])
        self._missing[new] = False
        for start in range(0, len(new), FEW):
            few = new[start : start + FEW].tolist()
            self._coming |= dict.fromkeys(few, self._pool.submit(self._decode_each, few))

    def _decode_each(self, indices: list[int]) -> None:
        for index in indices:
            self._decode(index)

    def wait(self, indices: Indices) -> bool:
        """Until these are there; returns whether any image is not, wherever it is.

        Raises:
            ImageError: the first of them, or of those decoded beside it.
        """
        self.ask(indices)
        for index in indices.tolist():
            if index in self._coming:
                self._coming[index].result()
                del self._coming[index]
        if self._coming or self._missing.any():
            return True
        self._pool.shutdown(wait=False)
        return False


class FlatStore:
    """Decoded images one after another in one array, in memory or mapped from a file.

    Args:
        kind: "memory" or "disk".
        source: the images kept, with their sizes.
        dropped: the images left out.
        pixels: all bytes.
        offsets: (N,) where each image begins.
        arriving: what fills in the pixels; None: they are there.
    """

    def __init__(
        self,
        kind: str,
        source: Source,
        dropped: Dropped,
        pixels: NDArray[np.uint8],
        offsets: Indices,
        arriving: Arriving | None = None,
    ) -> None:
        self.kind, self.split, self.sizes, self.dropped = kind, source.split, source.sizes, dropped
        self.memory = pixels.nbytes if kind == "memory" else 0
        self._pixels, self._offsets, self.channels = pixels, offsets, source.view.channels
        self._arriving = arriving
        self._alike: Pixels | None = None  # (N, H, W, C), where all images have one size and none is left out
        if not dropped and (self.sizes == self.sizes[0]).all():
            self._alike = pixels[offsets[0] :].reshape(len(offsets), *self.sizes[0], self.channels)

    def __len__(self) -> int:
        return len(self.split.paths)

    @property
    def whole(self) -> bool:
        """Whether every image is decoded."""
        return self._arriving is None

    def _image(self, index: int) -> Pixels:
        (height, width), start = self.sizes[index], self._offsets[index]
        size = height * width * self.channels
        return self._pixels[start : start + size].reshape(height, width, self.channels)

    def gather(self, indices: Indices, pinned: bool = False) -> tuple[Tensor, Tensor]:
        """Canvas and sizes of some images, as `images.stream.stack` gives them.

        Raises:
            ImageError: one is unreadable that was not decoded before.
        """
        if self._arriving is not None and not self._arriving.wait(indices):
            self._arriving = None
        if self._alike is not None:
            canvas = torch.from_numpy(self._alike[indices])
            return canvas.pin_memory() if pinned else canvas, torch.from_numpy(self.sizes[indices])
        return stack([self._image(index) for index in indices], pinned)

    def batches(self, parts: Sequence[Indices], pinned: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """`gather` of each part in turn; those that follow are decoded meanwhile."""
        for place, part in enumerate(parts):
            if self._arriving is not None:
                for following in parts[place : place + self._arriving.ahead(len(part))]:
                    self._arriving.ask(following)
            yield self.gather(part, pinned)


Store = FlatStore | StreamedStore


def open_store(
    folder: DataFolder,
    split: str,
    view: View,
    params: Params,
    fingerprint: str,
    memory_taken: int = 0,
    worker_init: Callable[[], object] | None = None,
    sharers: int = 1,
) -> Store:
    """The decoded images of a split, of the kind that params.cache names; "auto" chooses by the budgets.

    Args:
        folder: the data.
        split: train, valid or test.
        view: what is kept of each image.
        params: cache, cache_gigabytes, num_workers, max_megapixels and skip_bad count.
        fingerprint: of the split's files, by which a disk store is known.
        memory_taken: bytes of cache_gigabytes that other stores hold.
        worker_init: called in each worker process of a streamed store.
        sharers: processes of this machine that open it; they share what is on disk, and its pages in memory, but each
            has a memory store of its own.

    Raises:
        UserError: naming an unreadable file, now or when it is needed; with skip_bad it is left out of the store's
            split, listed and logged.
    """
    images, threads = folder.splits[split], max(1, params.num_workers)
    source = Source(folder.root, images, view, params.max_megapixels, np.zeros((len(images.paths), 2), np.int64))
    disk = DiskStore(source, params.skip_bad, fingerprint, threads)
    if params.cache in ("auto", "disk") and (found := disk.load()):
        return _flat("disk", source, found, disk.offsets)
    each = functools.partial(_each, source=source, threads=threads, skip_bad=params.skip_bad)
    unread = each(source.measure, f"{split}: reading headers", {})

    def decode_all(put: Put) -> dict[int, str]:
        return each(lambda index: put(index, source.image(index)), f"{split}: decoding", unread)

    for kind in _kinds(params, source.nbytes, memory_taken, split, sharers):
        if kind == "memory":
            pixels, offsets = np.empty(source.nbytes, np.uint8), source.offsets
            put = _into(pixels, offsets)
            if params.skip_bad:  # which they are must be known before the first epoch
                return _flat(kind, source, (pixels, decode_all(put)), offsets)
            return _arriving(source, pixels, offsets, put, threads)
        if kind == "disk":
            try:
                return _flat(kind, source, disk.build(decode_all), disk.offsets)
            except OSError as error:
                log.warning("%s: cannot keep decoded images (%s)", disk.path.parent, error.strerror or error)
    if params.skip_bad:  # which they are must be known before the first epoch
        unread = decode_all(lambda index, image: None)
    source, dropped, _ = _without(source, unread, source.offsets)
    log.info("%s: %d images, decoded again in every epoch", split, len(source.split.paths))
    return StreamedStore(source, dropped, params.num_workers, worker_init)


def _kinds(params: Params, size: int, memory_taken: int, split: str, sharers: int) -> tuple[str, ...]:
    """The kinds of store to try, in this order, for so many bytes."""
    free = free_memory()
    needed = size * sharers
    fits = needed <= min(params.cache_gigabytes * GIGABYTE - memory_taken * sharers, free / 2)
    if params.cache == "memory" and needed > free:
        raise UserError(
            f"cache: the decoded images of {split} take {needed / GIGABYTE:.1f} GB of memory, of which "
            f'{free / GIGABYTE:.1f} GB are free; set "cache" to "auto", "disk" or "none"'
        )
    if params.cache == "memory" or (params.cache == "auto" and fits and sharers == 1):
        return ("memory",)
    return () if params.cache == "none" else ("disk", "memory") if fits else ("disk",)


def _each(
    work: Callable[[int], object], what: str, failed: dict[int, str], source: Source, threads: int, skip_bad: bool
) -> dict[int, str]:
    """Does something with every image, in threads, but for those that failed before.

    Returns:
        Why which failed, those before included.

    Raises:
        ImageError: the first, unless skip_bad.
    """

    def chunk(start: int) -> dict[int, str]:
        bad = {}
        for index in range(start, min(start + CHUNK, count)):
            try:
                if index not in failed:
                    work(index)
            except ImageError as error:
                if not skip_bad:
                    raise
                bad[index] = error.reason
        return bad

    count, failures = len(source.split.paths), dict(failed)
    bar = progress((), what, total=count, unit="image")
    with ThreadPoolExecutor(threads) as pool, bar:
        for start, bad in zip(range(0, count, CHUNK), pool.map(chunk, range(0, count, CHUNK)), strict=True):
            failures |= bad
            bar.update(min(CHUNK, count - start))
    return failures


def _into(pixels: NDArray[np.uint8], offsets: Indices) -> Put:
    def put(index: int, image: Pixels) -> None:
        pixels[offsets[index] : offsets[index] + image.size] = image.reshape(-1)

    return put


def _arriving(source: Source, pixels: NDArray[np.uint8], offsets: Indices, put: Put, threads: int) -> FlatStore:
    arriving = Arriving(lambda index: put(index, source.image(index)), len(offsets), threads)
    gigabytes = pixels.nbytes / GIGABYTE
    log.info("%s: %d images, memory (%.2f GB), decoded when first needed", source.split.name, len(offsets), gigabytes)
    return FlatStore("memory", source, (), pixels, offsets, arriving)


def _flat(kind: str, source: Source, found: tuple[NDArray[np.uint8], dict[int, str]], offsets: Indices) -> FlatStore:
    pixels, unread = found
    source, dropped, offsets = _without(source, unread, offsets)
    store = FlatStore(kind, source, dropped, pixels, offsets)
    log.info("%s: %d decoded images, %s (%.2f GB)", source.split.name, len(store), kind, pixels.nbytes / GIGABYTE)
    return store


def _without(source: Source, unread: dict[int, str], offsets: Indices) -> tuple[Source, Dropped, Indices]:
    """The source, and the offsets of its images, without those that cannot be read."""
    if not unread:
        return source, (), offsets
    dropped = tuple((source.split.paths[index], reason) for index, reason in sorted(unread.items()))
    for path, reason in dropped:
        log.warning("%s: left out (%s)", printable(path), reason)
    log.warning("%s: %d unreadable images are left out", source.split.name, len(dropped))
    kept = np.array([index for index in range(len(source.split.paths)) if index not in unread], np.int64)
    left = subset(source.split, kept)
    if not left.paths:
        raise UserError(f"{printable(str(source.root / left.name))}: none of the images can be read; replace them")
    if (
        left.name == "train"
        and left.targets.ndim == 1
        and (gone := np.setdiff1d(source.split.targets, left.targets)).size
    ):
        lost = source.split.paths[int(np.flatnonzero(source.split.targets == gone[0])[0])]
        raise UserError(
            f"{printable(str(source.root / lost))}: no image of its class can be read; "
            "replace them, or leave out the class"
        )
    return dataclasses.replace(source, split=left, sizes=source.sizes[kept]), dropped, offsets[kept]


def subset(split: Split, positions: Indices) -> Split:
    """The images of a split at some positions, in that order."""
    paths = tuple(split.paths[position] for position in positions)
    sizes = None if split.sizes is None else split.sizes[positions]
    contents = None if split.contents is None else tuple(split.contents[position] for position in positions)
    return Split(split.name, paths, split.targets[positions], sizes, contents)
