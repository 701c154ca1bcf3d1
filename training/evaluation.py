"""A net's outputs on a whole split. Every metric, report and comparison starts from these."""

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

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
