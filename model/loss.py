"""Training losses. One loss is a function of logits and targets to one number per image."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from utils import UserError, did_you_mean, select

Array = Tensor | np.ndarray[Any, Any]
Loss = Callable[[Array, Array], Tensor]

# Each function: logits (B, C) float32, targets (B, C) float32, class weights (C,) -> losses (B,).


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy; smoothing moves that share of each target evenly to all classes (arXiv 1512.00567, section 7)."""
    targets = targets * (1 - label_smoothing) + label_smoothing / targets.shape[1]
    return -(weights * targets * logits.log_softmax(dim=1)).sum(dim=1)


def focal(logits: Tensor, targets: Tensor, weights: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Cross entropy with each class's term times (1 - p)^gamma, so that easy images count less (arXiv 1708.02002)."""
    log_p = logits.log_softmax(dim=1)
    hardness = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny) ** gamma  # 0 ** gamma has no gradient
    return -(weights * targets * hardness * log_p).sum(dim=1)


def bce(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    pos_weight: float | Tensor = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Binary cross entropy of each class on its own, mean over the classes; smoothing moves 0 and 1 towards 1/2.

    `pos_weight` multiplies the loss where the class is present: one number, or one per class (C,).
    """
    targets = targets * (1 - label_smoothing) + label_smoothing / 2
    terms = pos_weight * targets * functional.logsigmoid(logits) + (1 - targets) * functional.logsigmoid(-logits)
    return -(weights * terms).mean(dim=1)


# What params.json can name in "loss".
LOSSES: Final[dict[str, Callable[..., Tensor]]] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "bce": bce,
}

# The losses that have a meaning when an image has several classes or none.
MULTI_LABEL: Final = frozenset({"bce"})

_LIMITS: Final = {  # lowest, highest; whether it may be one number, and a list with one per class
    "label_smoothing": (0.0, 0.999, True, False),
    "gamma": (0.0, 100.0, True, False),
    "pos_weight": (1e-6, 1e6, True, True),
    "class_weights": (0.0, 1e6, False, True),
}


def make_loss(name: str, arguments: dict[str, Any], class_counts: Sequence[int], multi_label: bool) -> Loss:
    """The loss by name, as the mean over the images of a batch.

    The mean is over the images also when classes are weighted (torch's cross_entropy divides by the sum of the weights,
    but only for class indices): an image weighs the same in every batch, and indices mean the same as one-hot targets.

    Args:
        name: a key of LOSSES.
        arguments: the loss's own, and `class_weights`: one number per class, or "balanced" for
            sum(counts) / (C * count), as scikit-learn.
        class_counts: training images of each class.
        multi_label: whether an image may have several classes.

    Returns:
        A function of logits (B, C) and targets, (B,) class indices or (B, C) floats, tensors or arrays, to a scalar.

    Raises:
        UserError: for an unknown name, a wrong argument, or a loss that does not suit the data.
    """
    function = select(name, LOSSES, "loss")
    if multi_label and name not in MULTI_LABEL:
        raise UserError(f'loss "{name}" is for one class per image; this data has several: use "bce"')
    for key in arguments:
        if key not in (known := catalogue()[name] or frozenset()):
            raise UserError(f'loss "{name}" has no argument "{key}"{did_you_mean(key, known)}')
    constants = {key: _checked(key, value, class_counts) for key, value in arguments.items()}
    constants["weights"] = constants.pop("class_weights", torch.ones(len(class_counts)))

    @functools.cache
    def on(device: torch.device) -> dict[str, Any]:
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in constants.items()}

    def loss(logits: Array, targets: Array) -> Tensor:
        logits, targets = torch.as_tensor(logits).float(), torch.as_tensor(targets)
        if targets.ndim == 1:
            targets = functional.one_hot(targets, len(class_counts))
        return function(logits, targets.float(), **on(logits.device)).mean()

    return loss


def _checked(key: str, value: object, class_counts: Sequence[int]) -> object:
    """The argument; a list with one number per class as a tensor (C,)."""
    if key == "class_weights" and value == "balanced":
        return _balanced(class_counts)
    if key not in _LIMITS:
        return value
    low, high, single, listed = _LIMITS[key]
    numbers: list[Any] = value if isinstance(value, list) else [value]
    fits = listed and len(numbers) == len(class_counts) if isinstance(value, list) else single
    if fits and all(type(n) in (int, float) and low <= n <= high for n in numbers):
        return torch.tensor(numbers, dtype=torch.float32) if isinstance(value, list) else float(numbers[0])
    expected = [text for text, allowed in (("one number", single), (f"{len(class_counts)} numbers", listed)) if allowed]
    raise UserError(f"loss_arguments: {key} must be {' or '.join(expected)} from {low:g} to {high:g}, got {value}")


def _balanced(class_counts: Sequence[int]) -> Tensor:
    if 0 in class_counts:
        raise UserError(f'class_weights "balanced": class number {list(class_counts).index(0)} has no training image')
    counts = torch.tensor(class_counts, dtype=torch.float64)
    return (counts.sum() / (len(counts) * counts)).float()


def catalogue() -> dict[str, frozenset[str] | None]:
    """The names and their arguments, for the check of params.json."""
    return {
        name: frozenset(inspect.signature(function).parameters) - {"logits", "targets", "weights"} | {"class_weights"}
        for name, function in LOSSES.items()
    }
