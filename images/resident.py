"""All images of a store on the GPU, where batches are put together without waiting for what comes from memory."""

import math
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from images.cache import FlatStore, Store
from images.stream import Indices
from utils import log

T = TypeVar("T")

AT_ONCE: Final = 256  # images on their way


class Resident:
    """What the store's `gather` answers, from the device's memory, where each image has the room of the largest.

    Args:
        store: the images; what is not decoded yet is decoded now.
        device: where they go.
    """

    def __init__(self, store: FlatStore, device: torch.device) -> None:
        self.sizes = store.sizes
        self._pixels = torch.zeros(_shape(store), dtype=torch.uint8, device=device)
        for start in range(0, len(store), AT_ONCE):
            canvas, _ = store.gather(np.arange(start, min(start + AT_ONCE, len(store))), device.type == "cuda")
            room = self._pixels[start : start + AT_ONCE, : canvas.shape[1], : canvas.shape[2]]
            room.copy_(canvas, non_blocking=True)
        log.info("%s: %d images on %s (%.2f GB)", store.split.name, len(store), device, nbytes(store) / 2**30)

    def gather(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Canvas on the device, sizes on the CPU."""
        sizes = self.sizes[indices]
        height, width = sizes.max(axis=0)
        places = torch.from_numpy(indices).to(self._pixels.device, non_blocking=True)
        return self._pixels[:, :height, :width].index_select(0, places), torch.from_numpy(sizes)

    def batches(self, parts: Sequence[Indices], pinned: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """`gather` of each part in turn; `pinned` as a store has it, of no effect here."""
        return (self.gather(part) for part in parts)


class Placement:
    """Where batches take their images from: the store, or the GPU, after a first pass that decodes them.

    Attributes:
        store: the decoded images.
    """

    def __init__(self, store: Store, device: torch.device, wanted: bool) -> None:
        self.store = store
        self._device, self._wanted = device, wanted
        self._begun = False
        self._resident: Resident | None = None

    def images(self) -> Store | Resident:
        """What to take the images of the next pass from."""
        if self._wanted and isinstance(self.store, FlatStore) and (self._begun or self.store.whole):
            if nbytes(self.store) <= free_bytes(self._device) / 2:
                self._resident = Resident(self.store, self._device)
            self._wanted = False
        self._begun = True
        return self._resident or self.store


def place(stores: dict[T, Store], device: torch.device, gigabytes: float) -> dict[T, Placement]:
    """Puts as many of some stores on the device as so many gigabytes hold, the first ones first; none on a CPU."""
    left = gigabytes * 2**30 if device.type == "cuda" else 0.0
    placed = {}
    for key, store in stores.items():
        size = nbytes(store) if isinstance(store, FlatStore) else math.inf
        placed[key] = Placement(store, device, size <= left)
        left -= size if size <= left else 0
    return placed


def nbytes(store: FlatStore) -> int:
    """That the images take on a device."""
    return math.prod(_shape(store))


def free_bytes(device: torch.device) -> int:
    """That are free on a GPU."""
    return int(torch.cuda.mem_get_info(device)[0])


def _shape(store: FlatStore) -> tuple[int, int, int, int]:
    height, width = store.sizes.max(axis=0).tolist()
    return len(store), height, width, store.channels
