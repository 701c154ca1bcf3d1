"""Small nets for small images: two multi-layer perceptrons and a residual convolutional net."""

from collections import OrderedDict

import torch
from torch import nn

from config.schema import Params

HIDDEN = 512
DEEP_HIDDEN = (512, 256, 128)
CONV_WIDTHS = (32, 64, 128)
MOST_PIXELS = 48  # larger images are brought down to about this side before the costly layers


def shallow(params: Params, num_classes: int) -> nn.Sequential:
    """A perceptron with one hidden layer."""
    return _perceptron(params, num_classes, (HIDDEN,))


def deep(params: Params, num_classes: int) -> nn.Sequential:
    """A perceptron with three hidden layers."""
    return _perceptron(params, num_classes, DEEP_HIDDEN)


def _perceptron(params: Params, num_classes: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """Pixels averaged down to at most MOST_PIXELS a side, then layers with batch norm, ReLU and dropout `ps`."""
    pooling = -(-params.im_sz // MOST_PIXELS)
    side = params.im_sz // pooling
    width = params.channels * side * side
    net = nn.Sequential(OrderedDict(pool=nn.AvgPool2d(pooling), flatten=nn.Flatten()))  # (B, C, S, S) -> (B, width)
    for number, outputs in enumerate(hidden, 1):
        layer = nn.Sequential(
            nn.Linear(width, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True), nn.Dropout(params.ps)
        )
        net.add_module(f"hidden_{number}", layer)
        width = outputs
    net.add_module("classifier", nn.Linear(width, num_classes))
    return net


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity (He et al. 2015, arXiv:1512.03385)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(_convolution(width, width), _convolution(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width, H, W) -> the same shape."""
        return torch.add(x, self.convolutions(x))


def conv(params: Params, num_classes: int) -> nn.Sequential:
    """A residual net of two stages and 0.46 million parameters.

    At 28 pixels and one channel a forward pass takes 36 million multiply-adds; from 96 pixels on, the first layer
    strides over some.
    """
    first, second, third = CONV_WIDTHS
    stride = max(1, params.im_sz // MOST_PIXELS)
    return nn.Sequential(
        OrderedDict(
            stem=_convolution(params.channels, first, stride),  # (B, 32, S, S)
            down_1=_convolution(first, second, stride=2),  # (B, 64, S/2, S/2)
            residual_1=Residual(second),
            down_2=_convolution(second, third, stride=2),  # (B, 128, S/4, S/4)
            residual_2=Residual(third),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),  # (B, 128)
            dropout=nn.Dropout(params.ps),
            classifier=nn.Linear(third, num_classes),
        )
    )


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A convolution that reaches every pixel between its strides, batch norm and ReLU."""
    kernel = max(3, 2 * (stride // 2) + 1)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
