"""Batches: from a data folder and parameters to what the net is fed, for each split."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

import include
from config.parts import Normalization
from config.schema import Params
from images.augment import Augment, normalise
from images.cache import Store, View, open_store, subset
from images.folder import DataFolder, Split, check_headers, fingerprint, scan
from images.keyed_random import permutation, uniform
from images.mixing import mix
from images.resident import Placement, place
from images.stream import Indices
from utils import select

# What each name stands for: the split, and whether its images are seen as in training.
TYPES: Final = {
    "train": ("train", True),
    "train_evaluation": ("train", False),
    "valid": ("valid", False),
    "test": ("test", False),
}
STATISTICS_IMAGES: Final = 10_000  # so many training images, evenly spaced, give mean and std
VALUES_AT_ONCE: Final = 2**20  # of them, as int32

Statistics = tuple[Sequence[float], Sequence[float]]


class Batch(NamedTuple):
    """Some images on their way into the net.

    Attributes:
        images: (B, C, S, S) float32 on the device, normalised; S is im_sz, or less in progressive resizing.
        targets: what the loss is given: (B,) int64, or (B, classes) float32 of multi-label data and after mixing.
        labels: the targets before mixing.
        indices: (B,) int64 on the CPU, each image's position in the split.
        counted: how many of them, from the first, count here; those that do not, count in another process.
        total: images of the batch in all processes together.
    """

    images: Tensor
    targets: Tensor
    labels: Tensor
    indices: Tensor
    counted: int
    total: int


@dataclass(frozen=True)
class Share:
    """Which part of every batch this process takes.

    Args:
        index: which process this is.
        count: how many share the batches.
        sharers: how many of them share this machine.
    """

    index: int = 0
    count: int = 1
    sharers: int = 1

    def of(self, size: int) -> tuple[int, int, int]:
        """Where this process's part of a batch begins and ends, and how many of it count here.

        A batch with fewer images than there are processes goes to all of them whole, and counts in the first.
        """
        if size < self.count:
            return 0, size, 0 if self.index else size
        first, last = (size * edge // self.count for edge in (self.index, self.index + 1))
        return first, last, last - first


WHOLE: Final = Share()


@dataclass(frozen=True)
class Training:
    """What only the training loader does.

    Args:
        seed: of the order, the augmentation and the mixing.
        weighted: whether classes are drawn equally often.
        augment: None: images are seen as in evaluation.
        mixup: alpha of mixup; 0: off.
        cutmix: alpha of cutmix; 0: off.
        mixed_epochs: the number of epochs, from the first, in which images are mixed.
    """

    seed: int
    weighted: bool
    augment: Augment | None
    mixup: float
    cutmix: float
    mixed_epochs: int

    def mixes(self, epoch: int) -> bool:
        """Whether images are mixed in an epoch."""
        return bool(self.mixup or self.cutmix) and epoch < self.mixed_epochs


class _Part(NamedTuple):
    """What this process needs of a batch.

    Attributes:
        places: (B,) int64 positions in the epoch's order.
        lead: how many of them, from the first, are only mixed into the next, and belong to another process.
        counted: how many count here.
        total: images of the whole batch.
    """

    places: Indices
    lead: int
    counted: int
    total: int


class Loader:
    """The batches of one split: equal in every process, of which each takes its share, and after every interruption.

    Attributes:
        store: the decoded images.
        split: the images, without those that skip_bad left out.
        classes: names, in the order of the logits.
        multi_label: whether an image may be of several classes.
        batch_size: images per batch.
        device: where batches are.
        mean: (C,) subtracted from values in 0 … 1.
        std: (C,) what is then divided by.
    """

    def __init__(
        self,
        placement: Placement,
        folder: DataFolder,
        batch_size: int,
        device: torch.device,
        statistics: Statistics,
        training: Training | None = None,
        share: Share = WHOLE,
    ) -> None:
        self.store, self.split = placement.store, placement.store.split
        self.classes, self.multi_label = folder.classes, folder.multi_label
        self.batch_size, self.device = batch_size, device
        self.mean, self.std = statistics
        self._placement, self._training, self._share = placement, training, share
        self._targets = torch.from_numpy(self.split.targets)

    @property
    def augment(self) -> Augment | None:
        """What happens to the images before the net sees them; None where they are seen as they are."""
        return None if self._training is None else self._training.augment

    def __len__(self) -> int:
        full, rest = divmod(len(self.store), self.batch_size)
        alone = self._training is not None and rest == 1 and full > 0  # BatchNorm cannot learn from one image
        return full + (rest > 0 and not alone)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(0)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            epoch: counted from 0; it decides the order and every random choice of a training loader.
            start: batches to leave out at the beginning; those after them stay as they are.
        """
        order = self._order(epoch)
        keys = torch.from_numpy(order + len(order) * _repeats(order))  # what random choices about an image depend on
        steps = range(start, len(self))
        parts = [self._part(epoch, step) for step in steps]
        source = self._placement.images()
        decoded = source.batches([order[part.places] for part in parts], pinned=self.device.type == "cuda")
        for step, part, (canvas, sizes) in zip(steps, parts, decoded, strict=True):
            indices = torch.from_numpy(order[part.places])
            canvas = canvas.to(self.device, non_blocking=True)  # (B, H, W, C) uint8
            labels = self._targets[indices].to(self.device, non_blocking=True)
            if self._training is None or self._training.augment is None:
                images = normalise(canvas.permute(0, 3, 1, 2), self.mean, self.std)  # (B, C, S, S) float32
            else:
                images = self._training.augment(canvas, sizes, self._training.seed, epoch, keys[part.places])
            images, targets = self._mix(images, labels, epoch, step)
            own = slice(part.lead, None)
            yield Batch(images[own], targets[own], labels[own], indices[own], part.counted, part.total)

    def _order(self, epoch: int) -> Indices:
        """Positions in the split, as many as it has images."""
        if self._training is None:
            return np.arange(len(self.store))
        order = permutation(self._training.seed, epoch, len(self.store), "order")
        if not self._training.weighted:
            return order
        # Systematic sampling: a comb of equal gaps over the weights, laid in random order. An image of weight w, in
        # units of the mean, comes floor(w) or ceil(w) times.
        weights = _class_weights(self.split.targets, len(self.classes))[order].cumsum()
        teeth = (np.arange(len(order)) + uniform(self._training.seed, epoch, 0, "comb")) / len(order)
        drawn = order[np.searchsorted(weights[:-1] / weights[-1], teeth, side="right")]
        return drawn[permutation(self._training.seed, epoch, len(order), "drawn")]

    def _part(self, epoch: int, step: int) -> "_Part":
        start = step * self.batch_size
        total = min(self.batch_size, len(self.store) - start)
        first, last, counted = self._share.of(total)
        mixed = self._training is not None and self._training.mixes(epoch)
        lead = int(mixed and last - first < total)
        return _Part(start + np.arange(first - lead, last) % total, lead, counted, total)

    def _mix(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        how = self._training
        if how is None or not how.mixes(epoch):
            return images, labels
        targets = labels if self.multi_label else functional.one_hot(labels, len(self.classes)).float()
        return mix(images, targets, how.mixup, how.cutmix, how.seed, epoch, step)


def _repeats(order: Indices) -> Indices:
    """How often each number of a list came before in it."""
    by_value = np.argsort(order, kind="stable")
    ordered = order[by_value]
    repeats = np.empty_like(order)
    repeats[by_value] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return repeats


def _class_weights(targets: NDArray[Any], classes: int) -> NDArray[np.float64]:
    """(N,) float64: how often each image is to be drawn so that classes come equally often.

    An image of several classes has the sum of their shares; images of none are a class of their own.
    """
    if targets.ndim == 1:
        shares = 1 / np.maximum(np.bincount(targets, minlength=classes), 1)  # (classes,)
        return np.asarray(shares[targets])
    members = np.concatenate([targets, targets.sum(axis=1, keepdims=True) == 0], axis=1)  # (N, classes + 1)
    return np.asarray(members @ (1 / np.maximum(members.sum(axis=0), 1)), np.float64)


def fetch_dataloader(
    types: Sequence[str],
    data_dir: Path | str,
    params: Params,
    device: torch.device | str = "cpu",
    statistics: Statistics | None = None,
    folder: DataFolder | None = None,
    worker_init: Callable[[], object] | None = None,
    share: Share = WHOLE,
) -> dict[str, Loader]:
    """Opens the loaders of some splits.

    Args:
        types: of "train" (shuffled and augmented), and "train_evaluation", "valid", "test" (in order, as they are).
        data_dir: the data folder.
        params: the experiment's.
        device: where batches are wanted.
        statistics: mean and std of the pretrained weights for each channel, used when params.normalize is "auto"; None:
            those of the training images.
        folder: what was scanned and checked before, to save doing it again.
        worker_init: called in each loader worker, to let go of what only this process may hold, such as a lock.
        share: this process's part of the batches.

    Raises:
        UserError: naming what is wrong with the data.
    """
    wanted = {name: select(name, TYPES, "type of loader") for name in types}
    fixed = params.normalize
    given = (tuple(fixed.mean), tuple(fixed.std)) if isinstance(fixed, Normalization) else statistics
    if folder is None:
        splits = {split for split, _ in wanted.values()} | ({"train"} if params.overfit or not given else set())
        folder = scan(Path(data_dir), tuple(split for split in include.SPLITS if split in splits))
        folder, _ = check_headers(folder, params.max_megapixels, params.skip_bad)
    if params.overfit:
        few = _few(folder.splits["train"], params.overfit, params.seed)
        folder = dataclasses.replace(folder, splits=dict(folder.splits) | {"train": few})
        wanted = {name: kind if name == "test" else ("train", False) for name, kind in wanted.items()}
    stores: dict[tuple[str, bool], Store] = {}
    for kind in (*wanted.values(), *([] if given else [("train", not params.overfit)])):
        if kind not in stores:
            taken = sum(store.memory for store in stores.values())
            stores[kind] = _open(folder, kind, params, taken, worker_init, share.sharers)
    mean, std = given or _measure(stores["train", not params.overfit])
    placed = place(stores, torch.device(device), params.gpu_gigabytes)
    loaders = {}
    for name, kind in wanted.items():
        training = _training(params, mean, std) if name == "train" else None
        batch_size = params.batch_size if training else params.bs_test or params.batch_size
        loaders[name] = Loader(placed[kind], folder, batch_size, torch.device(device), (mean, std), training, share)
    return loaders


def _open(
    folder: DataFolder,
    kind: tuple[str, bool],
    params: Params,
    taken: int,
    worker_init: Callable[[], object] | None,
    sharers: int,
) -> Store:
    split, training = kind
    alone = dataclasses.replace(folder, splits={split: folder.splits[split]})
    print_ = fingerprint(alone) if params.cache in ("auto", "disk") else ""  # a disk store outlives other splits
    return open_store(folder, split, View.of(params, training), params, print_, taken, worker_init, sharers)


def _training(params: Params, mean: Sequence[float], std: Sequence[float]) -> Training:
    weighted = params.sampler == "weighted"
    if params.overfit:
        return Training(params.seed, weighted, augment=None, mixup=0, cutmix=0, mixed_epochs=0)
    progressive = params.progressive_resizing
    augment = Augment(
        params.augment, params.im_sz, mean, std, params.resize, params.crop_fraction, tuple(params.background),
        None if progressive is None else (progressive.im_sz, progressive.epochs),
    )  # fmt: skip
    mixed_epochs = params.num_epochs - params.mixing_off_epochs
    return Training(params.seed, weighted, augment, params.mixup, params.cutmix, mixed_epochs)


def _measure(store: Store) -> Statistics:
    """Mean and std of the channels over the images' pixels, from whole numbers and so the same for every store."""
    count = min(len(store), STATISTICS_IMAGES)
    positions = np.linspace(0, len(store) - 1, count).round().astype(np.int64)
    pixels = 0
    total = squares = torch.zeros((), dtype=torch.int64)
    for canvas, sizes in store.batches([positions[start : start + 64] for start in range(0, count, 64)]):
        pixels += int(sizes.prod(1).sum())
        rows = canvas.flatten(2)  # (B, Hmax, Wmax * C); the zeros beside images add nothing
        for images in torch.split(rows, max(1, VALUES_AT_ONCE // rows[0].numel())):
            values = images.int()  # sums over images and rows first, which is fast; (W, C) are left
            total = total + values.sum((0, 1)).reshape(canvas.shape[2:]).sum(0)  # (C,)
            squares = squares + values.square().sum((0, 1)).reshape(canvas.shape[2:]).sum(0)
    mean = total.double() / pixels
    std = (squares.double() / pixels - mean.square()).clamp(min=0).sqrt()
    rounded = ([round(value / 255, 6) for value in values.tolist()] for values in (mean, std))
    return next(rounded), [value or 1.0 for value in next(rounded)]


def _few(split: Split, count: int, seed: int) -> Split:
    """So many images, of each class as many as of the others as far as they go."""
    order = permutation(seed, 0, len(split.paths), "overfit")
    if split.targets.ndim == 1:
        order = order[np.argsort(_repeats(split.targets[order]), kind="stable")]
    return subset(split, np.sort(order[:count]))
