"""Optimizers of torch.optim by name, with parameter groups by layer group and weight decay."""

import inspect
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from config.parts import RateRange
from utils import UserError, did_you_mean, log, select

# Tables of positions; class tokens and scales are told by their shape.
_POSITIONS: Final = re.compile(
    r"pos_embed|position_embed|relative_position|rel_pos|_pos$|_rel$|(reg|register)_tokens?$"
)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay makes sense for a parameter of this name.

    It does for the matrices and filters that features are computed with, not for norms, biases, scales, class tokens
    and position embeddings.
    """
    last = name.rpartition(".")[2]
    dimensions = sum(size > 1 for size in parameter.shape)  # a layer scale may be (C, 1, 1), a class token (1, 1, C)
    vector = parameter.ndim <= 1 or (dimensions <= 1 and last != "weight")
    return not (vector or last == "bias" or _POSITIONS.search(last))


def listed_without_decay(net: nn.Module) -> set[str]:
    """The parameter names that the net, or a net inside it, lists in no_weight_decay()."""
    listed = set()
    for prefix, module in net.named_modules():
        if callable(names := getattr(module, "no_weight_decay", None)):
            listed |= {f"{prefix}.{name}" if prefix else name for name in names()}
    return listed


def group_rates(learning_rate: float | Sequence[float] | RateRange, count: int) -> list[float]:
    """The learning rate of each layer group, stem first.

    Args:
        learning_rate: one for all, one for each, or a range that is spread geometrically.
        count: how many layer groups there are.

    Raises:
        UserError: when as many rates as layer groups are not given.
    """
    if isinstance(learning_rate, RateRange):
        if count == 1:
            return [learning_rate.high]
        return [float(rate) for rate in np.geomspace(learning_rate.low, learning_rate.high, count)]
    if isinstance(learning_rate, Sequence):
        if len(learning_rate) != count:
            raise UserError(f"learning_rate lists {len(learning_rate)} rates for {count} layer groups")
        return [float(rate) for rate in learning_rate]
    return [float(learning_rate)] * count


def make_optimizer(
    name: str,
    arguments: dict[str, Any],
    net: nn.Module,
    groups: Sequence[Sequence[str]],
    rates: Sequence[float],
    wd: float,
) -> Optimizer:
    """The optimizer of all parameters, frozen ones too: these have no gradient and so are left alone until thawed.

    Args:
        name: a key of OPTIMIZERS.
        arguments: its own, without lr and weight_decay.
        net: its parameters are optimized where they are.
        groups: the names of its parameters by layer group.
        rates: the highest learning rate of each layer group.
        wd: weight decay.

    Returns:
        Each parameter group has, beside torch's own keys, "name" ("group 0", "group 0 no decay"), "group" (the layer
        group's number) and "max_lr".

    Raises:
        UserError: for an unknown name, arguments that do not suit it, and optimizers that cannot train such a net.
    """
    kind = select(name, OPTIMIZERS, "optimizer")
    if name in REFUSED:
        raise UserError(f'optimizer "{name}" {REFUSED[name]}')
    if name == "Muon" and (others := [key for key, parameter in net.named_parameters() if parameter.ndim != 2]):
        raise UserError(
            f'optimizer "Muon" takes matrices only, and {others[0]} is none: choose AdamW, or SGD with nesterov'
        )
    known = catalogue()[name] or frozenset()
    for key in arguments:
        if key not in known:
            raise UserError(f'optimizer "{name}" has no argument "{key}"{did_you_mean(key, known)}')
    if wd and "weight_decay" not in inspect.signature(kind).parameters:
        log.warning("optimizer %s has no weight decay: wd is not used", name)
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    device = next(net.parameters()).device
    try:
        _rehearse(kind, options, device)
        options |= _fused(kind, options, device)
        return kind(_parameter_groups(net, groups, rates, wd), **options)
    except Exception as error:  # torch has no one way to refuse an argument
        raise UserError(f'optimizer "{name}": {error}') from error


def _parameter_groups(
    net: nn.Module, groups: Sequence[Sequence[str]], rates: Sequence[float], wd: float
) -> list[dict[str, Any]]:
    parameters = dict(net.named_parameters())
    listed = listed_without_decay(net)
    found = []
    for number, (names, rate) in enumerate(zip(groups, rates, strict=True)):
        decayed = {name for name in names if name not in listed and decays(name, parameters[name])}
        for suffix, decay, members in (
            ("", wd, [name for name in names if name in decayed]),
            (" no decay", 0.0, [name for name in names if name not in decayed]),
        ):
            group = {"name": f"group {number}{suffix}", "group": number, "lr": rate, "max_lr": rate}
            if members:
                found.append(group | {"params": [parameters[name] for name in members], "weight_decay": decay})
    return found


def _fused(kind: type[Optimizer], options: dict[str, Any], device: torch.device) -> dict[str, bool]:
    """The argument that makes a step one kernel over all parameters, where the optimizer has one for the device.

    It goes through memory once instead of once for each of its operations (python -m bench.fused_step).
    """
    known = inspect.signature(kind).parameters
    if "fused" not in known or options.keys() & {"fused", "foreach", "capturable"}:
        return {}
    try:
        _rehearse(kind, options | {"fused": True}, device)
    except Exception:  # none for this device, or not with these arguments
        return {}
    return {"fused": True}


def _rehearse(kind: type[Optimizer], options: dict[str, Any], device: torch.device) -> None:
    """Makes one step on one number, as some arguments are found wrong only then."""
    parameter = nn.Parameter(torch.ones(1, 1, device=device))
    parameter.grad = torch.ones_like(parameter)
    kind([parameter], **options).step()


# What params.json can name in "optimizer".
OPTIMIZERS: Final[dict[str, type[Optimizer]]] = {
    name: kind
    for name, kind in sorted(vars(torch.optim).items())
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
}
# Of these, the ones that this training cannot use.
REFUSED: Final = {
    "LBFGS": "evaluates the loss several times per step over one group of parameters; choose another",
    "SparseAdam": "takes sparse gradients only, which image classifiers do not have; use Adam",
}


def catalogue() -> dict[str, frozenset[str] | None]:
    """The names and their arguments, for the check of params.json; learning_rate and wd have keys of their own."""
    fixed = {"params", "lr", "weight_decay", "maximize", "differentiable"}
    return {name: frozenset(inspect.signature(kind).parameters) - fixed for name, kind in OPTIMIZERS.items()}
