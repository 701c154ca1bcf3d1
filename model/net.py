"""What `arch` can name, and the net that params.json describes."""

import hashlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from config.run_folder import NET
from config.schema import Params
from images.augment import growing_side
from model import backbones, heads, mambavision, pretrained, small_nets
from model.backbones import Backbone
from model.groups import declared_head
from model.pretrained import Statistics
from model.weights_file import first_line
from utils import UserError, did_you_mean, printable

# To add a net: a function here; or, without a change to the repository, a net.py in the experiment's folder.
ARCHS: Final[dict[str, Callable[[Params, int], nn.Module]]] = {
    "shallow": small_nets.shallow,
    "deep": small_nets.deep,
    "conv": small_nets.conv,
}


class BuiltNet(NamedTuple):
    """A net in training mode on the CPU.

    Args:
        net: takes float32 images (B, C, S, S), gives logits (B, num_classes).
        statistics: (mean, deviation) per channel that its pretrained weights expect; None when they expect nothing.
        weights: provenance of the pretrained weights; None when it starts from random ones.
    """

    net: nn.Module
    statistics: Statistics | None
    weights: dict[str, Any] | None


class _ArchNames(Mapping[str, None]):
    """Every name that `arch` can take; a library is imported only when a question cannot be answered without it."""

    def __contains__(self, name: object) -> bool:
        return name in ARCHS or name == NET or (isinstance(name, str) and backbones.library(name) is not None)

    def __getitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys(
            (*ARCHS, *mambavision.SIZES, NET, *backbones.torchvision_names(), *backbones.timm_names())
        )

    def __len__(self) -> int:
        return sum(1 for _ in self)


def arch_names() -> Mapping[str, None]:
    """The catalogue of `arch`: `in`, iteration and length as of a dict."""
    return _ArchNames()


def build_net(params: Params, num_classes: int, model_dir: Path | None = None) -> BuiltNet:
    """Builds the net of one experiment and loads the weights it starts from.

    With `pretrain` 0 it is the same net with random weights, to load a trained state into.

    Args:
        params: arch, pretrain, head, ps, channels and im_sz are read.
        num_classes: number of outputs.
        model_dir: the folder of the experiment's own net.py.

    Raises:
        UserError: arch or pretrain name nothing that exists, or do not go with each other, im_sz or head.
    """
    library = None if params.arch in ARCHS or params.arch == NET else backbones.library(params.arch)
    weights = pretrained.find(params, library)
    backbone = _backbone(params, num_classes, model_dir, library)
    _refuse_one_size(backbone.net, params)
    if weights is None:
        return BuiltNet(backbone.net, None, None)
    provenance = pretrained.load(backbone, weights, params)
    return BuiltNet(backbone.net, _for_channels(weights.statistics, params.channels), provenance)


def _for_channels(statistics: Statistics | None, channels: int) -> Statistics | None:
    """One grey channel is taken to have the mean of the colours' statistics."""
    if statistics is None or len(statistics[0]) == channels:
        return statistics
    mean, std = ((sum(values) / len(values),) * channels for values in statistics)
    return mean, std


def _backbone(params: Params, num_classes: int, model_dir: Path | None, library: backbones.Library | None) -> Backbone:
    if params.arch == NET:
        return _own_net(params, num_classes, model_dir)
    if library is None and params.arch not in ARCHS:
        raise UserError(f'"{params.arch}" is not a known arch{did_you_mean(params.arch, arch_names())}')
    if library is None and params.head != "backbone":
        raise UserError(f'head: {params.arch} has no head but its own; use "head": "backbone"')
    try:
        if library is None:
            backbone = _plain(ARCHS[params.arch](params, num_classes), num_classes)
        else:
            backbone = backbones.BUILDERS[library](params, num_classes)
        _output_shape(backbone.net, params)
    except UserError:
        raise
    except Exception as error:  # libraries refuse image sizes in many ways
        raise UserError(
            f'{params.arch} cannot be built with "im_sz": {params.im_sz}, "head": "{params.head}" ({first_line(error)})'
        ) from error
    return backbone


def _plain(net: nn.Module, num_classes: int) -> Backbone:
    head = heads.classifier(net, num_classes)
    return Backbone(net, declared_head(net) or ((head,) if head else ()), lambda state: state)


def _refuse_one_size(net: nn.Module, params: Params) -> None:
    small = params.progressive_resizing
    if small is None:
        return
    epochs = range(min(small.epochs, params.num_epochs))
    for side in sorted({growing_side(small.im_sz, small.epochs, params.im_sz, epoch) for epoch in epochs}):
        try:
            _output_shape(net, params, side)
        except Exception as error:
            raise UserError(
                f"progressive_resizing: {params.arch} takes no images of {side} pixels when it is built for "
                f"{params.im_sz} ({first_line(error)}); leave it out, or choose a net that takes images of any size"
            ) from error


def _output_shape(net: nn.Module, params: Params, side: int | None = None) -> tuple[int, ...] | None:
    """Shape of what the net gives for two black images, in evaluation mode; None when that is no tensor."""
    side = side or params.im_sz
    net.eval()
    with torch.no_grad():
        output = net(torch.zeros(2, params.channels, side, side))
    net.train()
    return tuple(output.shape) if isinstance(output, torch.Tensor) else None


# --- the experiment's own net -----------------------------------------------------------------------------------------


def _own_net(params: Params, num_classes: int, model_dir: Path | None) -> Backbone:
    if model_dir is None or not (path := Path(model_dir) / NET).is_file():
        raise UserError(f"{_shown(Path(model_dir or '.') / NET)}: no such file, but arch is {NET}")
    try:
        build = getattr(_module(path), "build_net", None)
        if not callable(build):
            raise UserError(f"{_shown(path)}: it must define build_net(params, num_classes)")
        net = build(params, num_classes)
        if not isinstance(net, nn.Module):
            raise UserError(f"{_shown(path)}: build_net must return an nn.Module, got {type(net).__name__}")
        shape = _output_shape(net, params)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{_shown(path)}{_line(path, error)}: {type(error).__name__}: {first_line(error)}") from error
    if shape != (2, num_classes):
        got = "no tensor" if shape is None else f"shape {shape}"
        raise UserError(f"{_shown(path)}: for 2 images its net must give logits of shape {(2, num_classes)}, got {got}")
    return _plain(net, num_classes)


def _shown(path: Path) -> str:
    return printable(str(path))


def _module(path: Path) -> ModuleType:
    """The file as a module of a name of its own; nothing is written beside it."""
    module = ModuleType(f"experiment_net_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
    return module


def _line(path: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f":{lines[-1]}" if lines else ""
