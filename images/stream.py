"""Images decoded anew each time they are needed, by worker processes: for data above every budget."""

import contextlib
import functools
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_start_method
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from images.folder import Split
from images.read import DIFFERS, ImageError, read_header, read_image
from images.view import Pixels, View
from utils import TrainingFault, UserError

Indices = NDArray[np.int64]
Dropped = tuple[tuple[str, str], ...]  # path and reason of each image left out

ENOUGH: Final = 2  # times the kept height and width are left to shrink, as with Pillow's reducing_gap=2.0
ROUNDING: Final = 2  # kept pixels that two sides, each rounded up while decoding, can shift the proportions by
_DYING: Final = 2.0  # seconds within which a worker whose connection broke has ended


def stack(images: Sequence[Pixels], pinned: bool = False) -> tuple[Tensor, Tensor]:
    """Images of different sizes as one tensor.

    Args:
        images: B arrays (H, W, C) uint8.
        pinned: whether the tensor lies in memory that a GPU can read by itself.

    Returns:
        canvas: (B, Hmax, Wmax, C) uint8: each image at the top left, zeros elsewhere.
        sizes: (B, 2) int64, each image's height and width.
    """
    sizes = np.array([image.shape[:2] for image in images], np.int64)
    height, width = sizes.max(axis=0)
    shape = (len(images), int(height), int(width), images[0].shape[2])
    canvas = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
    for row, image, (height, width) in zip(canvas.numpy(), images, sizes, strict=True):
        row[:height, :width], row[height:], row[:height, width:] = image, 0, 0
    return canvas, torch.from_numpy(sizes)


@dataclass(frozen=True)
class Source:
    """The files of one split and how they are decoded; it travels to threads and worker processes.

    Args:
        root: the data folder.
        split: the images.
        view: what is kept of each.
        max_megapixels: larger images are refused.
        sizes: (N, 2) int64, the height and width that each is kept with.
    """

    root: Path
    split: Split
    view: View
    max_megapixels: float
    sizes: Indices

    @property
    def lengths(self) -> Indices:
        """(N,) int64: bytes of each image."""
        return np.asarray(self.sizes.prod(axis=1) * self.view.channels)

    @property
    def offsets(self) -> Indices:
        """(N,) int64: where each image begins when all are put one after another."""
        return np.concatenate([[0], self.lengths[:-1].cumsum()])

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return int(self.lengths.sum())

    def measure(self, index: int) -> None:
        """Fills in an image's size: as it was found before, else from its header alone."""
        if self.split.sizes is None:
            header = read_header(self.root / self.split.paths[index], self.max_megapixels)
            self.sizes[index] = self.view.size(header.height, header.width)
        else:
            self.sizes[index] = self.view.size(*self.split.sizes[index].tolist())

    def image(self, index: int) -> Pixels:
        """Decodes one image; for training at a fraction of its size, where that is enough.

        Returns:
            (H, W, C) uint8 as it is kept.

        Raises:
            ImageError: naming the file.
        """
        path, kept = self.root / self.split.paths[index], self.sizes[index]
        enough = (ENOUGH * kept).tolist() if self.view.training else None  # evaluation sees every pixel of the file
        image = read_image(path, self.view.channels, self.view.background, self.max_megapixels, enough)
        reduced = enough is not None and bool(np.all(np.greater_equal(image.shape[:2], enough)))  # or might be
        if np.abs(np.subtract(self.view.size(*image.shape[:2]), kept)).max() > (ROUNDING if reduced else 0):
            raise ImageError(path, DIFFERS)
        return self.view.apply(image, kept.tolist() if reduced else None)

    def __getitem__(self, indices: Indices) -> tuple[Tensor, Tensor] | UserError:
        """What a worker sends back for one batch: `stack` of its images, or what a person must know.

        Tensors go through shared memory. Arrays would go through a pipe, where a worker that is killed half way
        through one leaves the reader waiting for the rest for ever.
        """
        try:
            return stack([self.image(index) for index in indices])
        except UserError as error:
            return UserError(str(error))


class StreamedStore:
    """Images that are decoded each time; the same interface as FlatStore.

    Args:
        source: the readable images, with their sizes.
        dropped: the images left out.
        workers: processes that decode ahead; 0: this one does it.
        worker_init: called in each forked worker, to let go of what only the parent may hold, such as a lock.
    """

    kind = "streamed"
    memory = 0  # bytes kept

    def __init__(
        self, source: Source, dropped: Dropped, workers: int, worker_init: Callable[[], object] | None = None
    ) -> None:
        self.split, self.sizes, self.dropped = source.split, source.sizes, dropped
        self._source = source
        self._workers = workers
        self._parts: list[Indices] = []
        self._passes = 0
        self._loader: Any = self._make_loader(worker_init) if workers else None

    def __len__(self) -> int:
        return len(self.split.paths)

    def gather(self, indices: Indices, pinned: bool = False) -> tuple[Tensor, Tensor]:
        """Canvas and sizes of some images, as `stack` gives them, decoded here and now."""
        return stack([self._source.image(index) for index in indices], pinned)

    def batches(self, parts: Sequence[Indices], pinned: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """`gather` of each part in turn, decoded ahead by the workers.

        Raises:
            UserError: naming an unreadable file.
            TrainingFault: when a worker died.
        """
        if self._loader is None or not parts:
            yield from (self.gather(part, pinned) for part in parts)
            return
        self._passes += 1
        this_pass, self._parts[:] = self._passes, parts
        results = self._watched(self._start)
        for _ in parts:
            if self._passes != this_pass:
                raise RuntimeError("another pass over these images has begun; the workers serve one at a time")
            result = self._watched(results.__next__)
            if isinstance(result, UserError):
                self._abandon()
                raise result
            canvas, sizes = result
            yield canvas.pin_memory() if pinned else canvas, sizes

    def _make_loader(self, worker_init: Callable[[], object] | None) -> "DataLoader[Any]":
        forked = get_start_method() == "fork"  # other workers inherit nothing to let go of
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # more workers than cores are the person's choice
            return DataLoader(
                self._source,  # type: ignore[arg-type]
                batch_size=None,
                sampler=self._parts,
                num_workers=self._workers,
                collate_fn=_as_it_is,
                worker_init_fn=functools.partial(_begin_worker, worker_init if forked else None),
                persistent_workers=True,
                generator=torch.Generator(),  # the global one must not depend on who decodes
            )

    def _start(self) -> Any:
        """Starts the workers, or sets them on the next pass; returns what gives their results.

        torch's handler of SIGCHLD would raise a RuntimeError wherever this process happens to be, in the middle of
        writing a checkpoint too, so the one before it is put back: a dead worker is noticed when its batch is due.
        """
        before = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return iter(self._loader)
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, before)

    def _watched(self, step: Callable[[], Any]) -> Any:
        """Does a step that needs the workers; whatever comes of one that died becomes a TrainingFault."""
        try:
            return step()
        except (RuntimeError, OSError, EOFError) as error:
            if codes := self._exit_codes():
                self._abandon()
                raise TrainingFault(self._death(codes[0])) from error
            if isinstance(error, OSError):
                why = f"{self._workers} loader workers cannot be started or heard ({error.strerror or error})"
                raise TrainingFault(f"{why}; lower num_workers") from error
            raise

    def _exit_codes(self) -> list[int]:
        """Of the workers that have died, or are about to: one that is killed closes its connections first."""
        workers = {worker.sentinel: worker for worker in self._processes()}
        for sentinel in connection.wait(list(workers), _DYING) if workers else ():
            workers[sentinel].join()
        return [worker.exitcode for worker in workers.values() if worker.exitcode is not None]

    def _processes(self) -> list[Any]:
        return [] if self._loader._iterator is None else list(self._loader._iterator._workers)

    def _abandon(self) -> None:
        """Ends the workers, so that the next pass starts new ones.

        Without torch's farewell: it waits for locks that a dead worker may have held.
        """
        iterator = self._loader._iterator
        iterator._shutdown = True
        torch._C._remove_worker_pids(id(iterator))
        for worker in iterator._workers:
            worker.kill()
            worker.join()
        for queue in iterator._index_queues:
            queue.cancel_join_thread()
        self._loader._iterator = None

    def _death(self, code: int) -> str:
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        with contextlib.suppress(OSError):
            name += f", {shutil.disk_usage('/dev/shm').free / 2**30:.1f} GB free in /dev/shm"
        return (
            f"a loader worker died ({name}, {free_memory() / 2**30:.1f} GB of memory free); "
            "most often memory or /dev/shm ran out: lower num_workers or batch_size"
        )


def _as_it_is(result: Any) -> Any:
    return result


def _begin_worker(also: Callable[[], object] | None, _: int) -> None:
    """Leaves signals to the parent, which decides when to stop; SIGTERM keeps torch's own handler for workers."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if also is not None:
        also()


def free_memory() -> int:
    """Bytes that this process may still take, by what the system and its control group report."""
    found = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    with contextlib.suppress(OSError, ValueError, IndexError):
        group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().split("0::/")[1].strip()
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(found, default=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2))
