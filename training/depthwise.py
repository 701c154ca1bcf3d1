"""Depthwise convolutions in float32: on a CPU, torch computes their gradients in bf16 many times more slowly."""

import torch
from torch import nn


class Float32Conv2d(nn.Conv2d):
    """A convolution that autocast leaves in float32, whatever it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) of any float type -> float32."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def keep_depthwise_in_float32(net: nn.Module) -> None:
    """Makes every depthwise convolution of a net, one filter or more to each channel, a Float32Conv2d.

    Its parameters, buffers and hooks stay what they are. `python -m bench.precision` shows what it is for.
    """
    for module in net.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1:
            module.__class__ = Float32Conv2d
