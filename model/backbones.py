"""Nets of torchvision, timm and MambaVision with a classifier of our own. The libraries are imported when needed."""

import functools
import importlib.util
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import nn

from config.schema import Params
from model import heads, mambavision
from model.weights_file import State, inside
from utils import UserError, optional_import

Library = Literal["torchvision", "timm", "mambavision"]

TIMM_PREFIX: Final = "timm:"
AUXILIARY_HEADS: Final = ("aux1", "aux2", "AuxLogits")
# Children of torchvision's nets that come after the last feature map.
AFTER_FEATURES: Final = ("avgpool", "dropout", "flatten", "classifier", "fc", "head")
# Names in torchvision's published files that its own loading code changes.
RENAMES: Final = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)


@dataclass(frozen=True)
class Backbone:
    """A net, and how weights published for the library's own net get into it.

    Args:
        net: takes images (B, C, S, S), gives logits (B, num_classes).
        head: the modules that are new when the classes are.
        adapt: brings a published state dict to the names and shapes of this net, as far as that can be done.
    """

    net: nn.Module
    head: tuple[str, ...]
    adapt: Callable[[State], State]


# --- names ------------------------------------------------------------------------------------------------------------


@functools.cache
def torchvision_names() -> tuple[str, ...]:
    """Every classification net of torchvision."""
    from torchvision import models

    return tuple(models.list_models(module=models))


@functools.cache
def timm_names() -> tuple[str, ...]:
    """Every net of timm; none when timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        return ()
    import timm

    return tuple(timm.list_models())


def timm_name(arch: str) -> str:
    """The name by which timm knows an arch; it may end in the tag of weights."""
    return arch.removeprefix(TIMM_PREFIX)


def library(arch: str) -> Library | None:
    """The library that has a net of this name; MambaVision, whose nets are our own, counts as one.

    Raises:
        UserError: timm is asked for but not installed.
    """
    if arch in mambavision.SIZES:
        return "mambavision"
    if arch.startswith(TIMM_PREFIX):
        optional_import("timm", "timm")
    elif arch in torchvision_names():
        return "torchvision"
    return "timm" if timm_name(arch).partition(".")[0] in timm_names() else None


# --- torchvision ------------------------------------------------------------------------------------------------------


def torchvision_net(params: Params, num_classes: int) -> Backbone:
    """A torchvision net with random weights, without auxiliary heads.

    Raises:
        UserError: the net has no head of the kind asked for.
    """
    from torchvision import models

    net = models.get_model(params.arch, weights=None, num_classes=num_classes, **_arguments(params))
    if params.channels == 1:
        _take_grey(net)
    if params.head == "concat_pool":
        net = _with_concat_pool(_torchvision_body(net, params), params, num_classes)
        return Backbone(net, ("head",), functools.partial(_torchvision_state, net, params))
    head = heads.classifier(net, num_classes)
    heads.tame(net.get_submodule(head))
    heads.set_dropout(net, head, params.ps)
    return Backbone(net, (head,), functools.partial(_torchvision_state, net, params))


def _arguments(params: Params) -> dict[str, Any]:
    """What some constructors must be told: the image size that positions depend on; no auxiliary heads."""
    if params.arch.startswith("vit_"):
        return {"image_size": params.im_sz}
    if params.arch.startswith("maxvit_"):
        return {"input_size": (params.im_sz, params.im_sz)}
    if params.arch in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {}


def _take_grey(net: nn.Module) -> None:
    """Lets the first convolution take one channel, by the sum of its filters: a grey image is the same in all three."""
    _, first = _first_convolution(net)
    first.weight = nn.Parameter(first.weight.detach().sum(1, keepdim=True))
    first.in_channels = 1


def _first_convolution(net: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))


def _torchvision_body(net: nn.Module, params: Params) -> OrderedDict[str, nn.Module]:
    """The net's children up to its last feature map, in their order of use, under their own names."""
    if params.arch.startswith("vit_"):
        raise _no_feature_maps(params)
    body = OrderedDict((name, child) for name, child in net.named_children() if name not in AFTER_FEATURES)
    for name, child in body.items():
        if isinstance(child, nn.ModuleList):
            body[name] = nn.Sequential(*child)
    if params.arch.startswith("densenet"):
        body["relu"] = nn.ReLU(inplace=True)  # a function call in the original
    return body


def _torchvision_state(net: Any, params: Params, state: State) -> State:
    for pattern, name in RENAMES:
        state = {pattern.sub(name, key): value for key, value in state.items()}
    dropped = AUXILIARY_HEADS if params.head == "backbone" else (*AUXILIARY_HEADS, *AFTER_FEATURES)
    state = {key: value for key, value in state.items() if not inside(key, dropped)}
    _add_up_colours(state, net, params)
    if params.arch.startswith("vit_") and "encoder.pos_embedding" in state:
        from torchvision.models.vision_transformer import interpolate_embeddings

        state = interpolate_embeddings(params.im_sz, net.patch_size, state)
    return state


def _add_up_colours(state: State, net: nn.Module, params: Params) -> None:
    first = f"{_first_convolution(net)[0]}.weight"
    if params.channels == 1 and first in state:
        state[first] = state[first].sum(1, keepdim=True)


# --- timm -------------------------------------------------------------------------------------------------------------


def timm_net(params: Params, num_classes: int) -> Backbone:
    """A timm net with random weights.

    Raises:
        UserError: timm is not installed, or the net has no head of the kind asked for.
    """
    if params.head == "concat_pool":
        body = OrderedDict(backbone=_create(params, num_classes=0, global_pool=""))
        if getattr(body["backbone"], "output_fmt", "NCHW") == "NHWC":
            body["channels_first"] = heads.ChannelsFirst()
        net = _with_concat_pool(body, params, num_classes)
        return Backbone(net, ("head",), functools.partial(_timm_state, net, params))
    net = _create(params, num_classes=num_classes, drop_rate=params.ps)
    for name in _timm_head(net):
        heads.tame(net.get_submodule(name))
    return Backbone(net, _timm_head(net), functools.partial(_timm_state, net, params))


def _create(params: Params, **arguments: Any) -> Any:
    timm = optional_import("timm", "timm")
    name = timm_name(params.arch)
    config = timm.get_pretrained_cfg(name)
    if config and config.fixed_input_size:
        arguments["img_size"] = params.im_sz
    return timm.create_model(name, in_chans=params.channels, **arguments)


def _timm_head(net: Any) -> tuple[str, ...]:
    head = net.default_cfg.get("classifier") or ()
    return (head,) if isinstance(head, str) else tuple(head)


def _timm_state(net: nn.Module, params: Params, state: State) -> State:
    """What timm makes of a published state: it knows old formats, grey filters and other image sizes."""
    timm = optional_import("timm", "timm")
    config = timm.get_pretrained_cfg(timm_name(params.arch))
    head = f"{config.classifier if isinstance(config.classifier, str) else config.classifier[0]}.weight"
    classes = len(state[head]) if head in state else config.num_classes
    overlay = {"state_dict": state, "num_classes": classes}
    donor = _create(params, num_classes=classes, pretrained=True, pretrained_cfg_overlay=overlay)
    if params.head == "backbone":
        return dict(donor.state_dict())
    return {f"backbone.{key}": value for key, value in donor.state_dict().items() if not inside(key, _timm_head(donor))}


# --- MambaVision ------------------------------------------------------------------------------------------------------


def mambavision_net(params: Params, num_classes: int) -> Backbone:
    """A MambaVision with random weights."""
    net = mambavision.mambavision(mambavision.SIZES[params.arch], params.channels, num_classes, params.ps)
    head = "classifier"
    if params.head == "concat_pool":
        names = list(dict(net.named_children()))
        body = OrderedDict((name, net.get_submodule(name)) for name in names[: names.index("pool")])
        net, head = _with_concat_pool(body, params, num_classes), "head"
    return Backbone(net, (head,), functools.partial(_mambavision_state, net, params))


def _mambavision_state(net: nn.Module, params: Params, state: State) -> State:
    if mambavision.is_published(state):
        state = mambavision.from_published(state)
    if params.head == "concat_pool":
        state = {key: value for key, value in state.items() if not inside(key, ("classifier",))}
    _add_up_colours(state, net, params)
    return state


# --- concat_pool ------------------------------------------------------------------------------------------------------


def _with_concat_pool(body: OrderedDict[str, nn.Module], params: Params, num_classes: int) -> nn.Sequential:
    with torch.no_grad():
        features = nn.Sequential(body).eval()(torch.zeros(1, params.channels, params.im_sz, params.im_sz))
    if features.ndim != 4:
        raise _no_feature_maps(params)
    net = heads.Headed(OrderedDict(body, head=heads.concat_pool(features.shape[1], num_classes, params.ps)))
    return net.train()


def _no_feature_maps(params: Params) -> UserError:
    return UserError(f'head: {params.arch} ends in no feature maps that concat_pool could pool; use "head": "backbone"')


BUILDERS: Final[dict[Library, Callable[[Params, int], Backbone]]] = {
    "torchvision": torchvision_net,
    "timm": timm_net,
    "mambavision": mambavision_net,
}
