"""MambaVision (Hatamizadeh & Kautz 2024, arXiv:2407.08083): two convolutional stages, two of mixers and attention.

Written from the paper. The authors' code and weights carry a non-commercial licence; none of their code is here.
"""

import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from model.selective_scan import selective_scan
from model.weights_file import State

LICENCE: Final = "NVIDIA's non-commercial licence (research and evaluation only)"
PREFIX: Final = "mambavision_"
STATES: Final = 8  # of each channel that is scanned
KERNEL: Final = 3  # of the mixer's convolutions
EXPANSION: Final = 4  # of the perceptron
WINDOWS: Final = (14, 7)  # widest side of a window in the third and fourth stage
STEP_SIZES: Final = (0.001, 0.1)  # of the scan at the start (Gu & Dao 2023, section 3.6)


@dataclass(frozen=True)
class Size:
    """One published size: table 1 of the paper and the authors' configuration files.

    Attributes:
        depths: blocks in each stage.
        width: channels of the first stage; each later one has twice as many.
        stem: channels between the two convolutions of the stem.
        heads: of attention in the third and fourth stage.
        drop_path: chance that the last block is passed over in training; it rises evenly from 0 at the first.
        layer_scale: what each block of the third and fourth stage is multiplied with at first; None: no such factor.
    """

    depths: tuple[int, int, int, int]
    width: int
    stem: int
    heads: tuple[int, int]
    drop_path: float
    layer_scale: float | None = None


SIZES: Final[dict[str, Size]] = {
    "mambavision_t": Size((1, 3, 8, 4), width=80, stem=32, heads=(8, 16), drop_path=0.2),
    "mambavision_t2": Size((1, 3, 11, 4), width=80, stem=32, heads=(8, 16), drop_path=0.2),
    "mambavision_s": Size((3, 3, 7, 5), width=96, stem=64, heads=(8, 16), drop_path=0.2),
    "mambavision_b": Size((3, 3, 10, 5), width=128, stem=64, heads=(8, 16), drop_path=0.3, layer_scale=1e-5),
    "mambavision_l": Size((3, 3, 10, 5), width=196, stem=64, heads=(16, 32), drop_path=0.3, layer_scale=1e-5),
}


def mambavision(size: Size, channels: int, num_classes: int, ps: float) -> nn.Sequential:
    """The net with random weights: images (B, channels, S, S) of any side -> logits (B, num_classes).

    Args:
        size: one of SIZES.
        channels: of the images.
        num_classes: number of outputs.
        ps: dropout before the classifier.
    """
    widths = [size.width * 2**stage for stage in range(4)]
    chances = iter(np.linspace(0, size.drop_path, sum(size.depths)).tolist())
    net = nn.Sequential(OrderedDict(stem=_stem(channels, size.stem, widths[0])))  # (B, width, S/4, S/4)
    for stage, (width, depth) in enumerate(zip(widths, size.depths, strict=True)):
        if stage > 0:
            net.add_module(f"down_{stage}", nn.Conv2d(widths[stage - 1], width, 3, 2, padding=1, bias=False))
        drops = [next(chances) for _ in range(depth)]
        if stage < 2:
            blocks: nn.Sequential = nn.Sequential(*(Convolutions(width, drop) for drop in drops))
        else:
            blocks = Windowed(width, drops, size.heads[stage - 2], WINDOWS[stage - 2], size.layer_scale)
        net.add_module(f"stage_{stage + 1}", blocks)
    net.add_module("norm", nn.BatchNorm2d(widths[-1]))  # (B, 8 width, S/32, S/32)
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("dropout", nn.Dropout(ps))
    net.add_module("classifier", nn.Linear(widths[-1], num_classes))
    net.apply(_start)
    return net


def _stem(channels: int, between: int, width: int) -> nn.Sequential:
    """Two convolutions that halve each side."""
    return nn.Sequential(
        nn.Conv2d(channels, between, 3, 2, padding=1, bias=False), nn.BatchNorm2d(between, eps=1e-4), nn.ReLU(),
        nn.Conv2d(between, width, 3, 2, padding=1, bias=False), nn.BatchNorm2d(width, eps=1e-4), nn.ReLU(),
    )  # fmt: skip


def _start(module: nn.Module) -> None:
    """First weights of linear layers as in ViT; then a mixer's own, which its linear layers would undo."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Mixer):
        module.start()


# --- blocks -----------------------------------------------------------------------------------------------------------


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): training leaves a branch out for some rows and scales the others up."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, x: Tensor) -> Tensor:
        """(rows, …) -> the same shape."""
        if not self.training or not self.chance:
            return x
        kept = 1 - self.chance
        rows: Tensor = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(kept) / kept
        return x * rows

    def extra_repr(self) -> str:
        """The chance, for print(net)."""
        return f"{self.chance:g}"


class Convolutions(nn.Module):
    """Two 3x3 convolutions beside an identity (equation 1 of the paper)."""

    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.activation = nn.GELU(approximate="tanh")
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same shape."""
        return torch.add(x, self.drop_path(self.norm2(self.conv2(self.activation(self.norm1(self.conv1(x)))))))


class Windowed(nn.Sequential):
    """A stage of tokens in windows: mixers in its first half, attention in its second (the larger half is mixers).

    Args:
        width: channels.
        drops: of each block, the chance of DropPath.
        heads: of attention.
        window: longest side of a window.
        layer_scale: see Size.
    """

    def __init__(self, width: int, drops: list[float], heads: int, window: int, layer_scale: float | None) -> None:
        mixers = math.ceil(len(drops) / 2)
        blocks = (
            Block(width, Mixer(width) if place < mixers else Attention(width, heads), drop, layer_scale)
            for place, drop in enumerate(drops)
        )
        super().__init__(*blocks)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same shape.

        The map is cut into the fewest windows, all equal, that are no longer than `window`; zeros fill the last ones.
        """
        batch, channels, height, width = x.shape
        rows, columns = math.ceil(height / self.window), math.ceil(width / self.window)
        tall, wide = math.ceil(height / rows), math.ceil(width / columns)
        x = functional.pad(x, (0, columns * wide - width, 0, rows * tall - height))
        windows = x.reshape(batch, channels, rows, tall, columns, wide).permute(0, 2, 4, 3, 5, 1)
        tokens = windows.reshape(batch * rows * columns, tall * wide, channels)
        for block in self:
            tokens = block(tokens)
        windows = tokens.reshape(batch, rows, columns, tall, wide, channels).permute(0, 5, 1, 3, 2, 4)
        return windows.reshape(batch, channels, rows * tall, columns * wide)[:, :, :height, :width]


class Block(nn.Module):
    """A mixer or attention, then a perceptron, each behind a norm and beside an identity (equation 4)."""

    def __init__(self, width: int, mixer: nn.Module, drop: float, layer_scale: float | None) -> None:
        super().__init__()
        self.norm1, self.mixer = nn.LayerNorm(width), mixer
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(width, EXPANSION * width), activation=nn.GELU(), fc2=nn.Linear(EXPANSION * width, width)
            )
        )
        self.drop_path = DropPath(drop)
        scales = (None, None) if layer_scale is None else (torch.full((width,), layer_scale) for _ in range(2))
        self.gamma_1, self.gamma_2 = (None if scale is None else nn.Parameter(scale) for scale in scales)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, tokens, width) -> the same shape."""
        x = x + self.drop_path(_scaled(self.mixer(self.norm1(x)), self.gamma_1))
        return torch.add(x, self.drop_path(_scaled(self.mlp(self.norm2(x)), self.gamma_2)))


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


class Mixer(nn.Module):
    """Half of the channels are scanned, half only convolved; both see the tokens on either side (algorithm 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half, self.rank = width // 2, math.ceil(width / 16)
        self.in_proj = nn.Linear(width, 2 * half, bias=False)
        self.conv_scanned = nn.Conv1d(half, half, KERNEL, padding="same", groups=half, bias=False)
        self.conv_beside = nn.Conv1d(half, half, KERNEL, padding="same", groups=half, bias=False)
        self.x_proj = nn.Linear(half, self.rank + 2 * STATES, bias=False)
        self.dt_proj = nn.Linear(self.rank, half)
        self.A_log = nn.Parameter(torch.empty(half, STATES))
        self.D = nn.Parameter(torch.empty(half))
        self.out_proj = nn.Linear(2 * half, width, bias=False)
        self.start()

    def start(self) -> None:
        """First values of the scan: rates -1, -2, … and step sizes spread evenly in their logarithm."""
        low, high = map(math.log, STEP_SIZES)
        step = torch.empty_like(self.D).uniform_(low, high).exp()
        with torch.no_grad():
            nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of it is the step
            self.A_log.copy_(torch.arange(1.0, STATES + 1).log().expand_as(self.A_log))
            self.D.fill_(1)

    def no_weight_decay(self) -> tuple[str, str]:
        """The scan's own parameters: decay would pull all rates towards -1."""
        return "A_log", "D"

    def forward(self, tokens: Tensor) -> Tensor:
        """(windows, L, width) -> the same shape."""
        scanned, beside = self.in_proj(tokens).transpose(1, 2).chunk(2, dim=1)  # (windows, width / 2, L) each
        scanned = functional.silu(self.conv_scanned(scanned)).transpose(1, 2)
        beside = functional.silu(self.conv_beside(beside)).transpose(1, 2)
        step, enter, read = self.x_proj(scanned).split([self.rank, STATES, STATES], dim=2)
        step = functional.softplus(self.dt_proj(step).float())
        scanned = selective_scan(scanned, step, -torch.exp(self.A_log), enter, read, self.D)
        out: Tensor = self.out_proj(torch.cat([scanned.to(beside.dtype), beside], dim=2))
        return out


class Attention(nn.Module):
    """Self-attention of all tokens of a window."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(windows, L, width) -> the same shape."""
        windows, length, _ = tokens.shape
        q, k, v = self.qkv(tokens).reshape(windows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind()
        out: Tensor = self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


# --- the published weights --------------------------------------------------------------------------------------------

# How the names in the authors' files become ours, in this order.
RENAMES: Final = (
    (re.compile(r"^model\."), ""),  # the wrapper in the files for Hugging Face's transformers
    (re.compile(r"^patch_embed\.conv_down\."), "stem."),
    (re.compile(r"^levels\.(\d)\.blocks\."), lambda found: f"stage_{int(found[1]) + 1}."),
    (re.compile(r"^levels\.(\d)\.downsample\.reduction\.0\."), lambda found: f"down_{int(found[1]) + 1}."),
    (re.compile(r"\.mixer\.conv1d_x\."), ".mixer.conv_scanned."),
    (re.compile(r"\.mixer\.conv1d_z\."), ".mixer.conv_beside."),
    (re.compile(r"^head\."), "classifier."),
)


def is_published(state: State) -> bool:
    """Whether a state dict has the names of the authors' files."""
    return any(re.match(r"(model\.)?levels\.\d\.", name) for name in state)


def from_published(state: State) -> State:
    """The state dict of the authors' files, with our names.

    They add the bias of the step sizes twice: in the layer and again in the scan
    (https://github.com/NVlabs/MambaVision/issues/32); we add it once, as the paper does, so it becomes twice as large.
    """
    renamed: State = {}
    for name, value in state.items():
        for pattern, ours in RENAMES:
            name = pattern.sub(ours, name)
        renamed[name] = 2 * value if name.endswith(".mixer.dt_proj.bias") else value
    return renamed
