"""What a net consists of, as text: layers with output shapes, parameters per layer group, multiply-adds."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from tabulate import tabulate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.groups import definition_order, nearest


def summarise(net: nn.Module, input_shape: Sequence[int], groups: Sequence[Sequence[str]]) -> str:
    """The layers in order of use, the layer groups, and the totals.

    One image goes through the net once, in evaluation mode, on the net's own device; the net is left as it was.

    Args:
        net: any net of images.
        input_shape: (batch, channels, height, width); the batch size is not used.
        groups: parameter names of each layer group, body first.
    """
    shape = (1, *input_shape[1:])
    outputs, multiply_adds = _run(net, shape)
    parameters = dict(net.named_parameters())
    group_of = {name: index for index, names in enumerate(groups) for name in names}
    layers = [_layer(name, module, outputs, group_of) for name, module in _in_order_of_use(net, outputs)]
    sums = [
        (
            index,
            f"{sum(parameters[name].numel() for name in names):,}",
            f"{sum(parameters[name].numel() for name in names if parameters[name].requires_grad):,}",
        )
        for index, names in enumerate(groups)
    ]
    total = sum(parameter.numel() for parameter in parameters.values())
    trainable = sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad)
    return "\n\n".join(
        [
            _table(("layer", "type", "output", "parameters", "group"), layers),
            _table(("group", "parameters", "trainable"), sums),
            f"{total:,} parameters, {trainable:,} of them trainable; {multiply_adds:,} multiply-adds for one image of "
            f"{_text(shape[1:])} (convolutions and matrix products, counted by torch.utils.flop_counter)\n",
        ]
    )


def _run(net: nn.Module, shape: Sequence[int]) -> tuple[dict[str, str], int]:
    """Each called module's output shape as text, in order of first call, and the number of multiply-adds."""
    outputs: dict[str, str] = {}

    def before(name: str, *_: Any) -> None:
        outputs.setdefault(name, "")

    def after(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs[name] = _shape(output)

    hooks = []
    for name, module in net.named_modules():
        hooks.append(module.register_forward_pre_hook(functools.partial(before, name)))
        hooks.append(module.register_forward_hook(functools.partial(after, name)))
    modes = {module: module.training for module in net.modules()}
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernel is not counted
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net.eval()(torch.zeros(*shape, device=next((p.device for p in net.parameters()), None)))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return outputs, counter.get_total_flops() // 2


def _shape(output: Any) -> str:
    """Of one image's output, or of the first of several."""
    first = output[0] if isinstance(output, tuple | list) else output
    return _text(first.shape[1:]) if isinstance(first, torch.Tensor) else ""


def _text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _in_order_of_use(net: nn.Module, outputs: dict[str, str]) -> list[tuple[str, nn.Module]]:
    """Modules with parameters of their own or without parts; those never called stand by the nearest that is."""
    order, place = definition_order(net), {name: index for index, name in enumerate(outputs)}
    shown = [
        (name, module)
        for name, module in net.named_modules()
        if any(True for _ in module.parameters(recurse=False))
        or (name in outputs and not any(True for _ in module.children()))
    ]
    return sorted(shown, key=lambda item: place[nearest(item[0], place, order)])


def _layer(name: str, module: nn.Module, outputs: dict[str, str], group_of: dict[str, int]) -> tuple[str, ...]:
    own = {f"{name}.{key}".lstrip("."): parameter.numel() for key, parameter in module.named_parameters(recurse=False)}
    group = next((str(group_of[key]) for key in own if key in group_of), "")
    return name or "(net)", type(module).__name__, outputs.get(name, ""), f"{sum(own.values()):,}" if own else "", group


def _table(headers: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    numbers = {"parameters", "trainable", "group"}
    align = ["right" if header in numbers else "left" for header in headers]
    return tabulate(rows, headers, colalign=align, disable_numparse=True)
