"""A net's outputs on a whole split. Every metric, report and comparison starts from these."""

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from model.data_loader import Loader
from training.processes import ALONE, Processes
from utils import progress

Autocast = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Predictions:
    """Logits of each image of a split, in the split's order: float32 (N, C); labels (N,) int64 or (N, C) float32."""

    logits: np.ndarray
    labels: np.ndarray


@torch.inference_mode()
def predict(
    net: nn.Module,
    loader: Loader,
    autocast: Autocast = contextlib.nullcontext,
    after_batch: Callable[[], None] | None = None,
    views: tuple[Callable[[Tensor], Tensor], ...] = (),
    processes: Processes = ALONE,
) -> Predictions:
    """Runs the net in evaluation mode over an evaluation loader.

    Args:
        net: maps images (B, C, S, S) to logits (B, classes).
        loader: images in the split's order.
        autocast: the precision to compute in; logits are stored as float32.
        after_batch: called after each batch; may raise to stop.
        views: further views of the images (B, C, S, S) -> (B, C, S, S); the mean of the probabilities counts, given as
            its logarithm, so that argmax and softmax of the logits mean what they always mean.
        processes: that share the images, as the loader does. The first returns the whole, the others their own part.
    """
    net.eval()
    logits, labels, indices = [], [], []
    for batch in progress(loader.batches(0), loader.split.name, len(loader), unit="batch"):
        with autocast():
            outputs = [net(view(batch.images)) for view in (_as_is, *views)]
        logits.append(_mean_view([output.float() for output in outputs], loader.multi_label)[: batch.counted])
        labels.append(batch.labels[: batch.counted])
        indices.append(batch.indices[: batch.counted])
        if after_batch is not None:
            after_batch()
    # Copied at the end: a copy after each batch would have the device wait for the next one.
    own = {"logits": torch.cat(logits).cpu(), "labels": torch.cat(labels).cpu(), "indices": torch.cat(indices)}
    parts = processes.gather(own) or [own]
    whole = {name: torch.cat([part[name] for part in parts]) for name in own}
    order = whole["indices"].argsort()
    return Predictions(whole["logits"][order].numpy(), whole["labels"][order].numpy())


def _as_is(images: Tensor) -> Tensor:
    return images


def _mean_view(logits: list[Tensor], multi_label: bool) -> Tensor:
    if len(logits) == 1:
        return logits[0]
    stacked = torch.stack(logits).double()  # (views, B, C)
    if multi_label:
        return torch.logit(stacked.sigmoid().mean(0), eps=1e-12).float()
    mean: Tensor = stacked.log_softmax(-1).logsumexp(0) - math.log(len(logits))
    return mean.float()


def mirrored(images: Tensor) -> Tensor:
    """The images (B, C, H, W) seen in a mirror."""
    return images.flip(-1)


def shifted(images: Tensor, direction: int) -> Tensor:
    """The images (B, C, H, W) moved to the lower right (1) or upper left (-1) by a 32nd of their sides.

    By at least 1 pixel; what comes in at the edges is their reflection. As in KellerJordan/cifar10-airbench.
    """
    height, width = images.shape[-2:]
    down, right = (max(1, round(side / 32)) for side in (height, width))
    padded = functional.pad(images, (right, right, down, down), mode="reflect")
    top, left = ((0, 0), (2 * down, 2 * right))[direction < 0]
    return padded[..., top : top + height, left : left + width]


def _mirrored_and_shifted(images: Tensor, direction: int) -> Tensor:
    return shifted(mirrored(images), direction)


# What --tta adds to the images as they are.
VIEWS: Final[dict[str | None, tuple[Callable[[Tensor], Tensor], ...]]] = {
    None: (),
    "mirror": (mirrored,),
    "shift": (mirrored, *(partial(view, direction=d) for view in (shifted, _mirrored_and_shifted) for d in (1, -1))),
}
