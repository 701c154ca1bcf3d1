"""Averages of weights: the moving one of every step, the plain one of the last epochs, and BatchNorm to match."""

import copy
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Weights = dict[str, Tensor]


class EMA:
    """Exponential moving average of the weights and of floating-point buffers; others are copied.

    BatchNorm's statistics are averaged alongside, so that they belong to the averaged weights. The decay rises from
    2 / 11 with the steps, min(decay, (1 + t) / (10 + t)), so that the start is forgotten also on small data.

    Args:
        net: where the average starts.
        decay: its highest value, in [0, 1).

    Attributes:
        net: the averaged net, in evaluation mode.
        steps: updates so far.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        """Copies the net."""
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Moves the average towards the net; call it after each optimizer step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        means, news = [], []
        for mean, new in zip(_tensors(self.net), _tensors(net), strict=True):
            if mean.is_floating_point():
                means.append(mean)
                news.append(new)
            else:
                mean.copy_(new)
        if means:
            torch._foreach_lerp_(means, news, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the number of updates."""
        return {"net": self.net.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved state."""
        self.net.load_state_dict(state["net"])
        self.steps = state["steps"]


def _tensors(net: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers, shared ones once."""
    return itertools.chain(net.parameters(), net.buffers())


class LastEpochs:
    """Keeps the weights of the last finished epochs, and gives their mean.

    Epochs that are among the last however the run goes on are kept as their sum, so that all of them take up as much as
    one; only those that may yet drop out are kept one by one.

    Args:
        count: how many epochs; fewer when fewer ran.

    Attributes:
        epochs: their numbers, counted from 1.
        weights: of the first of them, one by one.
        total: the sum over the others, in float32 or wider.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.epochs: list[int] = []
        self.weights: list[Weights] = []
        self.total: Weights = {}

    def add(self, net: nn.Module, epoch: int, earliest_end: int, latest_end: int) -> None:
        """Keeps a copy of the weights after an epoch, and nothing of epochs that can no longer be among the last.

        Args:
            net: whose weights to copy.
            epoch: its number, counted from 1.
            earliest_end: the first epoch, this one or a later, that may turn out to be the run's last.
            latest_end: the last epoch that may.
        """
        first = earliest_end - self.count + 1
        gone = sum(kept < first for kept in self.epochs)
        self.epochs, self.weights = self.epochs[gone:], self.weights[gone:]
        if epoch < first:
            return
        self.epochs = [*self.epochs, epoch]
        if epoch <= latest_end - self.count:
            self.weights = [*self.weights, {name: _copy(tensor) for name, tensor in net.state_dict().items()}]
            return
        for name, tensor in net.state_dict().items():
            if name in self.total and tensor.is_floating_point():
                self.total[name] += tensor.cpu()
            else:
                self.total[name] = _copy(tensor, _wide(tensor))

    def mean(self) -> Weights:
        """Mean of the kept weights, in float32 or wider; buffers that are not floating-point as in the last epoch.

        BatchNorm's averaged statistics are not those of the averaged weights: recompute_batch_norm makes them so.
        """
        kept = [*self.weights, self.total] if self.total else self.weights
        return {name: self._mean_of(name, kept) for name in kept[-1]}

    def _mean_of(self, name: str, kept: list[Weights]) -> Tensor:
        last = kept[-1][name]
        if not last.is_floating_point():
            return last.clone()
        total = torch.zeros_like(last, dtype=torch.float64)
        for weights in kept:
            total += weights[name]
        return (total / len(self.epochs)).to(_wide(last))

    def state_dict(self) -> dict[str, Any]:
        """What is kept, and changed by `add`."""
        return {"epochs": self.epochs, "weights": self.weights, "total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved state; those of earlier versions have no sum."""
        self.epochs, self.weights = state["epochs"], state["weights"]
        self.total = {name: tensor.clone() for name, tensor in state.get("total", {}).items()}


def _copy(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return tensor.detach().to("cpu", dtype or tensor.dtype, copy=True)


def _wide(tensor: Tensor) -> torch.dtype:
    """What a sum is kept in."""
    return torch.promote_types(tensor.dtype, torch.float32) if tensor.is_floating_point() else tensor.dtype


@torch.no_grad()
def recompute_batch_norm(net: nn.Module, batches: Iterable[tuple[Tensor, int]]) -> None:
    """Sets BatchNorm's statistics to the mean over the batches, each image weighing the same; the rest stays as it is.

    Only BatchNorm layers compute in training mode meanwhile (no dropout, no stochastic depth), and of these only the
    ones that are in training mode already: held layers keep their statistics.

    Args:
        net: its modes and each layer's momentum are as before afterwards.
        batches: images (B, C, H, W) on the net's device, and how many the batch has in all processes together; one
            of a single image has no variance and is left out.
    """
    layers = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]
    if not layers:
        return
    modes = {module: module.training for module in net.modules()}
    momenta = [layer.momentum for layer in layers]
    seen = 0
    try:
        net.eval()
        for layer in layers:
            layer.train()
        for images, total in batches:
            if total == 1:
                continue
            if not seen:
                for layer in layers:
                    layer.reset_running_stats()
            seen += total
            for layer in layers:  # the running mean of batches of sizes n: new weighs n over all seen so far
                layer.momentum = total / seen
            net(images)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
