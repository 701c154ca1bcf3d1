"""Finds where a net still sees in space: the last map of features that its answer depends on, of any architecture."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn

FINE: Final = 4  # cells a side from which on a map is worth drawing; 7 are usual
MOST_PREFIX_TOKENS: Final = 16  # class and register tokens before those of the image
_POOLS: Final = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)  # what they give may be finer than what they saw


class FeatureMap(NamedTuple):
    """Where a map of features comes from.

    Args:
        module: name of the module that gives it.
        call: which of the module's calls, from 0.
        layout: NCHW, NHWC, or tokens (B, prefix + side * side, C).
        side: cells a side.
        prefix: tokens before those of the image.
    """

    module: str
    call: int
    layout: Literal["NCHW", "NHWC", "tokens"]
    side: int
    prefix: int = 0

    def grid(self, output: Tensor) -> Tensor:
        """The module's output as (B, C, side, side), without tokens that stand for no place."""
        if self.layout == "tokens":
            images, _, features = output.shape
            output = output[:, self.prefix :].reshape(images, self.side, self.side, features)
        return output if self.layout == "NCHW" else output.permute(0, 3, 1, 2)


class _Call(NamedTuple):
    module: str
    call: int
    output: Tensor


@contextlib.contextmanager
def undisturbed(net: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients; afterwards every module is in the mode it was in."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def find(net: nn.Module, images: Tensor) -> FeatureMap | None:
    """The last feature map whose every cell may change what the net answers; None where there is none.

    The net is run once with a hook on each module. Of what they give, maps count that have as many rows as columns, or
    tokens that are as many as a square has cells, once a layer with parameters has been at work. Of these it is the
    last with a gradient: the last block of a transformer that reads off its class token has none at the other tokens.
    A map of at least FINE cells a side is preferred, and of maps of one size one that all has to pass, not a branch.

    Args:
        net: in any mode; it is left as it was.
        images: some images (B, C, S, S), as the net takes them.
    """
    with undisturbed(net):
        calls, logits, called = _trace(net, images)
        found = [(at, call.output) for call in calls if (at := _feature_map(call, calls, len(images))) is not None]
        found = [(at, output) for at, output in found if output.requires_grad]
        if not found or not logits.requires_grad:
            return None
        answers = logits.float().amax(dim=1).sum()
        gradients = torch.autograd.grad(answers, [output for _, output in found], allow_unused=True)
    seen = [at for (at, _), slope in zip(found, gradients, strict=True) if slope is not None and at.grid(slope).any()]
    seen = _as_wide_as_the_last(seen, dict(found)) or [at for at, _ in found]  # an answer may depend on nothing
    side = next((at.side for at in reversed(seen) if at.side >= FINE), seen[-1].side)
    sides = dict.fromkeys(called, 0) | {at.module: at.side for at, _ in found}
    return min((at for at in reversed(seen) if at.side == side), key=lambda at: _unfinished(at, sides))


def _trace(net: nn.Module, images: Tensor) -> tuple[list[_Call], Tensor, list[str]]:
    """What modules give, in the order of giving it, from the first layer with parameters on; logits; modules called."""
    calls: list[_Call] = []
    counts: Counter[str] = Counter()
    learnt = False

    def hook(name: str) -> "torch.utils.hooks.RemovableHandle":
        def note(module: nn.Module, _: object, output: object) -> None:
            nonlocal learnt
            learnt = learnt or any(True for _ in module.parameters(recurse=False))
            if learnt and name and isinstance(output, Tensor) and not isinstance(module, _POOLS):
                calls.append(_Call(name, counts[name], output))
            counts[name] += 1

        return net.get_submodule(name).register_forward_hook(note)

    handles = [hook(name) for name, _ in net.named_modules()]
    try:
        logits = net(images.clone().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    return calls, logits, list(counts)


def _feature_map(call: _Call, calls: list[_Call], batch: int) -> FeatureMap | None:
    shape = tuple(call.output.shape)
    if shape[0] != batch or not call.output.is_floating_point():
        return None
    if len(shape) == 4:
        return _map_of_cells(call, calls)
    return _map_of_tokens(call, calls) if len(shape) == 3 else None


def _map_of_cells(call: _Call, calls: list[_Call]) -> FeatureMap | None:
    _, first, second, third = call.output.shape
    tokens = {other.output.shape[1] for other in calls if other.output.ndim == 3}
    if second == third and second > 1 and second not in tokens:  # else it is the attention of tokens to each other
        return FeatureMap(call.module, call.call, "NCHW", second)
    return FeatureMap(call.module, call.call, "NHWC", first) if first == second > 1 else None


def _map_of_tokens(call: _Call, calls: list[_Call]) -> FeatureMap | None:
    tokens = call.output.shape[1]
    embedded = {other.output.shape[3] for other in calls if other.output.ndim == 4}  # as patches are cut
    sides = [side for side in embedded if 0 <= tokens - side * side <= MOST_PREFIX_TOKENS]
    side = max(sides, default=round(tokens**0.5))
    prefix = tokens - side * side
    if side < 2 or (not sides and prefix):
        return None
    return FeatureMap(call.module, call.call, "tokens", side, prefix)


def _unfinished(at: FeatureMap, sides: dict[str, int]) -> int:
    """How many of the modules around a module end in a map of another size: inside of these it may be a branch."""
    parts = at.module.split(".")
    around = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return sum(sides.get(module, at.side) != at.side for module in around)  # a mere list of modules is not called


def _as_wide_as_the_last(seen: list[FeatureMap], outputs: dict[FeatureMap, Tensor]) -> list[FeatureMap]:
    """Of tokens those with as many features as the last: no queries, keys and values side by side, no hidden layers."""
    width = next((outputs[at].shape[2] for at in reversed(list(outputs)) if at.layout == "tokens"), 0)
    return [at for at in seen if at.layout != "tokens" or outputs[at].shape[2] == width]
