"""Layer groups of any net, found by running it once: which parameters come first, which last, which form the head.

A net says which of its modules is the head by an attribute `head_prefix`: the module's name, or a tuple of names. Nets
of timm say it in their own way; of every other net the head is the last layer with as many outputs as classes.
"""

import bisect
import copy
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from utils import UserError


def layer_groups(net: nn.Module, count: int, input_shape: Sequence[int], num_classes: int) -> list[list[str]]:
    """Splits the parameters of a net into groups by the order in which the net uses them, the head last.

    The body is cut into `count` - 1 groups of nearly equal numbers of weight layers (modules with a weight of two or
    more dimensions), each cut moved up to the start of the block that begins with its layer. Auxiliary heads, which
    only training runs, belong to the head. Parameters of modules that are never called, such as the projection of
    torch's attention, go with the nearest module that is.

    Args:
        net: neither it nor any random number generator changes; a copy without data runs on the meta device.
        count: number of groups: 1 for everything in one, 2 for body and head.
        input_shape: (batch, channels, height, width) of images that the net takes.
        num_classes: number of outputs of the net.

    Returns:
        Names as in `net.named_parameters()`, in order of use; each in exactly one group, no group empty.

    Raises:
        UserError: the net has too few layers for so many groups, has no head that can be found, or cannot be run.
    """
    names = [name for name, _ in net.named_parameters()]
    if count == 1:
        return [names]
    calls = _calls(net, input_shape)
    place = {name: index for index, name in enumerate(calls)}
    order = definition_order(net)
    used = {name: place[nearest(owner(name), place, order)] for name in names}
    names.sort(key=used.__getitem__)
    head = _head(net, num_classes, calls)
    body = [name for name in names if not inside(name, head)]
    layers = sorted({used[name] for name in body if _is_weight(name, net.get_parameter(name))}) or [0][: len(body)]
    if len(layers) < count - 1:
        possible = f"{len(layers) + 1} group{'s' if layers else ''}"
        raise UserError(f"layer_groups: this net can be split into at most {possible}, got {count}")
    cuts = _cuts(calls, layers, count - 1)
    groups: list[list[str]] = [[] for _ in range(count)]
    for name in names:
        groups[-1 if inside(name, head) else bisect.bisect(cuts, used[name])].append(name)
    return groups


# --- the order of execution -------------------------------------------------------------------------------------------


def _calls(net: nn.Module, input_shape: Sequence[int]) -> list[str]:
    """Names of the modules that the net calls in evaluation, in order of their first call; "" is the net."""
    try:
        try:
            return _run(_without_data(net), input_shape, "meta")
        except Exception:  # what the net does may depend on values, which the meta device does not have
            return _run(copy.deepcopy(net), input_shape, "cpu")
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        shape = tuple(input_shape)
        raise UserError(f"the net cannot be run on images of shape {shape} (see im_sz): {reason}") from error


def _without_data(net: nn.Module) -> nn.Module:
    memo: dict[int, torch.Tensor] = {id(buffer): torch.empty_like(buffer, device="meta") for buffer in net.buffers()}
    for parameter in net.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    return copy.deepcopy(net, memo)


def _run(net: nn.Module, input_shape: Sequence[int], device: str) -> list[str]:
    calls: dict[str, None] = {}
    for name, module in net.named_modules():
        module.register_forward_pre_hook(lambda _module, _inputs, name=name: calls.setdefault(name))
    with torch.random.fork_rng(devices=[]), torch.device(device), torch.no_grad():
        net.to(device).eval()(torch.zeros(*input_shape))
    return list(calls)


def _cuts(calls: list[str], layers: list[int], parts: int) -> list[int]:
    """Places in `calls` that part the weight layers evenly, each at the start of the outermost block it can open."""
    starts: dict[str, int] = {}
    for place, name in enumerate(calls):
        for ancestor in _ancestors(name):
            starts.setdefault(ancestor, place)
    cuts = []
    for first in (index * len(layers) // parts for index in range(1, parts)):
        blocks = [starts[name] for name in _ancestors(calls[layers[first]]) if starts[name] > layers[first - 1]]
        cuts.append(min(blocks, default=layers[first]))
    return cuts


def _is_weight(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and "weight" in name


# --- the head ---------------------------------------------------------------------------------------------------------


def declared_head(net: nn.Module) -> tuple[str, ...]:
    """Names of the modules that the net, or timm for it, says are its head; empty when neither does.

    Raises:
        UserError: `head_prefix` names a module that the net does not have.
    """
    modules = definition_order(net)
    own = getattr(net, "head_prefix", None)
    named = own or getattr(net, "default_cfg", {}).get("classifier") or ()
    head = (named,) if isinstance(named, str) else tuple(named)
    for name in head:
        if own and name not in modules:
            raise UserError(f'head_prefix: "{name}" is not a module of the net')
    return tuple(name for name in head if name in modules)


def _head(net: nn.Module, num_classes: int, calls: list[str]) -> list[str]:
    """The modules of the head and of auxiliary heads: never called, beside the head, with an output per class."""
    modules = dict(net.named_modules())
    outputs = {name for name, module in modules.items() if width(module) == num_classes}
    head = [name for name in declared_head(net) if list(modules[name].parameters())]
    head = head or [name for name in calls if name in outputs][-1:]
    if not head:
        raise UserError(
            f"layer_groups: no layer with {num_classes} outputs was found; give the net an attribute "
            'head_prefix = "the name of its head module", or set layer_groups to 1'
        )
    called = {ancestor for name in calls for ancestor in _ancestors(name)}
    opened = {ancestor for name in outputs for ancestor in _ancestors(name)}
    beside = {ancestor for name in head for ancestor in _ancestors(owner(name))}
    return head + [name for name in modules if name in opened - called and owner(name) in beside]


def width(module: nn.Module) -> int | None:
    """How many outputs a linear or convolutional layer has; None of another."""
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, _ConvNd) else None


# --- names of modules -------------------------------------------------------------------------------------------------


def owner(name: str) -> str:
    """The module that holds a parameter or module of this name."""
    return name.rpartition(".")[0]


def definition_order(net: nn.Module) -> dict[str, int]:
    """Position of each module's name in `net.named_modules()`."""
    return {name: index for index, (name, _) in enumerate(net.named_modules())}


def nearest(name: str, known: Collection[str], order: Mapping[str, int]) -> str:
    """Of the known modules, the one nearest to a module: itself or in its innermost family that has any.

    Args:
        name: a module.
        known: modules to choose from, at least one.
        order: `definition_order` of the net; distances are counted in it, and the earlier module wins a tie.
    """
    if name in known:
        return name
    families = ([other for other in known if inside(other, [family])] for family in reversed(_ancestors(name)))
    relatives = next(filter(None, families))
    return min(relatives, key=lambda other: (abs(order[other] - order[name]), order[other]))


def _ancestors(name: str) -> list[str]:
    """The net itself (""), the modules around a module, outermost first, and the module."""
    parts = name.split(".") if name else []
    return [".".join(parts[:depth]) for depth in range(len(parts) + 1)]


def inside(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a name is one of the modules of these names or lies in one of them."""
    return any(not prefix or name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
