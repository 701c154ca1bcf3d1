"""A small net for images of 32 pixels, after those of the speed records: a fixed stem, wide and few convolutions.

Its shape follows the net of KellerJordan/cifar10-airbench (MIT licence): a whitening convolution of 2 pixels, three
stages of two convolutions of which the first is pooled at once, filters that begin as the identity, small logits.
"""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from config.schema import Params

WIDTHS = (64, 256, 256)
SIDE = 2  # pixels of the stem's filters
NEIGHBOURS, COLOURS = 0.95, 0.9  # correlation of neighbouring pixels, and of two colours of a pixel, in photographs
LOGITS = 1 / 9  # so that a new net is not sure of anything


class Whitening(nn.Module):
    """Filters whose outputs are uncorrelated and of variance 1 on normalised photographs, each with either sign.

    They are the eigenvectors of the patches' covariance over the roots of its eigenvalues. The covariance is that of
    a model of photographs, the same for every data set: correlations fall with the distance between pixels.
    """

    weight: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        places = torch.cartesian_prod(*[torch.arange(SIDE)] * 2).float()  # (SIDE², 2)
        space = NEIGHBOURS ** torch.cdist(places, places)
        colour = COLOURS ** (1 - torch.eye(channels))
        values, vectors = torch.linalg.eigh(torch.kron(colour, space))
        filters = (vectors / values.sqrt()).T.reshape(-1, channels, SIDE, SIDE)
        self.register_buffer("weight", torch.cat([filters, -filters]))
        self.bias = nn.Parameter(torch.zeros(len(self.weight)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, S, S) -> (B, 2 * channels * SIDE², S - 1, S - 1)."""
        return functional.gelu(functional.conv2d(x, self.weight, self.bias))


class Convolution(nn.Sequential):
    """A 3x3 convolution that begins as the identity of its inputs, pooled to half the side or not."""

    def __init__(self, inputs: int, outputs: int, pool: bool) -> None:
        filters = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        nn.init.dirac_(filters.weight.data[:inputs])
        super().__init__(filters, *[nn.MaxPool2d(2)] * pool, nn.BatchNorm2d(outputs), nn.GELU())


class Classifier(nn.Linear):
    """A linear layer without bias whose logits are small."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, features) -> (B, classes)."""
        return LOGITS * super().forward(x)


def build_net(params: Params, num_classes: int) -> nn.Sequential:
    """The net for images of params.channels; 32 pixels a side are what it is made for, 16 the fewest."""
    stem = Whitening(params.channels)
    stages: OrderedDict[str, nn.Module] = OrderedDict(stem=stem)
    inputs = len(stem.bias)
    for number, width in enumerate(WIDTHS, 1):
        stages[f"stage_{number}"] = nn.Sequential(
            Convolution(inputs, width, pool=True), Convolution(width, width, pool=False)
        )
        inputs = width
    stages.update(
        pool=nn.AdaptiveMaxPool2d(1), flatten=nn.Flatten(), classifier=Classifier(inputs, num_classes, bias=False)
    )
    return nn.Sequential(stages)
