"""BatchNorm whose statistics are those of the whole batch, of which each process has a part."""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

# What can be made to learn together: torch's, and timm's with its activation.
KINDS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "BatchNormAct2d")


class SynchronisedBatchNorm(_BatchNorm):
    """torch's SyncBatchNorm on GPUs, and the same on CPUs, where DistributedDataParallel refuses that class.

    Attributes:
        whole: whether each process has the whole batch, so that there is nothing to add up.
    """

    whole = False
    process_group = None  # all processes

    def _check_input_dim(self, input: Tensor) -> None:
        """Torch's BatchNorm asks for it: any (B, C, …) will do."""

    def _check_non_zero_input_channels(self, input: Tensor) -> None:
        """Torch's SyncBatchNorm asks for it: a net with such a layer cannot be built."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises (B, C, …) by the statistics of all processes' images in training, else by the running ones."""
        if not self.training or self.whole:
            output = super().forward(input)
        elif input.is_cuda and "nccl" in dist.get_backend_config():
            output = nn.SyncBatchNorm.forward(self, input)  # type: ignore[arg-type]
        else:
            output = self._over_all(input)
        for name in ("drop", "act"):  # timm's layers hold these too
            if isinstance(also := getattr(self, name, None), nn.Module):
                output = also(output)
        return output

    def _over_all(self, images: Tensor) -> Tensor:
        values = images.float()
        others = [0, *range(2, values.ndim)]  # every dimension but that of the channels
        count = _Sum.apply(torch.tensor(float(values.numel() // values.shape[1])))
        mean = _Sum.apply(values.sum(others)) / count  # (C,)
        centred = values - _beside(mean, values)
        variance = _Sum.apply(centred.square().sum(others)) / count  # (C,)
        self._learn(mean.detach(), (variance * count / (count - 1)).detach())
        output = centred * _beside((variance + self.eps).rsqrt(), values)
        if self.affine:
            output = output * _beside(self.weight, values) + _beside(self.bias, values)
        return output.to(images.dtype)

    def _learn(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the processes; so is its gradient, as each process's loss depends on it."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _beside(channels: Tensor, values: Tensor) -> Tensor:
    """(C,) as it meets (B, C, …)."""
    return channels.view(1, -1, *[1] * (values.ndim - 2))


def synchronise(net: nn.Module) -> list[str]:
    """Makes BatchNorm layers learn together, in place: parameters, names and hooks stay.

    Returns:
        The names of the layers with running statistics that are of another kind, and stay as they are.
    """
    apart = []
    for name, module in net.named_modules():
        if isinstance(module, _BatchNorm) and type(module).__name__ in KINDS:
            module.__class__ = SynchronisedBatchNorm
        elif module._buffers.get("running_var") is not None and not isinstance(module, SynchronisedBatchNorm):
            apart.append(name)
    return apart
