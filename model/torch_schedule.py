"""torch's learning rate schedulers by name, run on a stand-in for the optimizer."""

import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from utils import UserError, select

# What params.json can name in "scheduler" beside our own: each of torch's that needs no Python function.
TORCH_SCHEDULERS: Final[dict[str, type[LRScheduler]]] = {
    name: getattr(lr_scheduler, name)
    for name in sorted(lr_scheduler.__all__)
    if name not in ("LRScheduler", "LambdaLR", "MultiplicativeLR")
}
PER_STEP: Final = ("OneCycleLR", "CyclicLR")  # the others go once per epoch, unless "interval" says otherwise


class StandIn(Optimizer):
    """Has the optimizer's groups but not its weights, so that a scheduler leaves nothing behind in the true one."""

    def __init__(self, optimizer: Optimizer) -> None:
        """Takes over the groups, each at its highest rate."""
        groups = [{**group, "params": [torch.zeros(())], "lr": group["max_lr"]} for group in optimizer.param_groups]
        super().__init__(groups, dict(optimizer.defaults))

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Does nothing; torch warns when a scheduler goes before its optimizer."""


def build(
    name: str, arguments: Mapping[str, Any], optimizer: StandIn, length: int, filled: Mapping[str, Any]
) -> LRScheduler:
    """A scheduler of the stand-in.

    Args:
        name: a key of TORCH_SCHEDULERS.
        arguments: its own. Those of SequentialLR and ChainedScheduler list their parts as {"name": …, arguments};
            rates may be listed per layer group.
        optimizer: whose rates it sets.
        length: how many times it will go.
        filled: what else follows from the training, by argument name; used where the scheduler has such an argument
            and the arguments do not give it.

    Raises:
        UserError: for an unknown name, and when an argument is missing.
        TypeError, ValueError, …: what torch says of the arguments.
    """
    kind = select(name, TORCH_SCHEDULERS, "scheduler")
    parameters = inspect.signature(kind).parameters
    filled = {**filled, "T_max": length, "total_steps": length}
    if name == "PolynomialLR":  # for the others, total_iters is the length of a warm-up
        filled["total_iters"] = length
    if not arguments.keys().isdisjoint(("epochs", "steps_per_epoch")):
        del filled["total_steps"]
    values = {key: filled[key] for key in parameters if key in filled}
    values |= {key: _per_group(key, value, optimizer) for key, value in arguments.items()}
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in {"optimizer", *values}:
            raise UserError(f'scheduler "{name}" needs "{key}" in its scheduler_arguments')
    if "schedulers" in values:
        values["schedulers"] = _parts(values["schedulers"], values.get("milestones"), optimizer, length, filled)
    return kind(**values, optimizer=optimizer)


def _parts(
    parts: list[dict[str, Any]],
    milestones: list[int] | None,
    optimizer: StandIn,
    length: int,
    filled: Mapping[str, Any],
) -> list[LRScheduler]:
    """The schedulers that another one combines: one after the other from milestone to milestone, or all at once."""
    lengths = [length] * len(parts)
    if milestones is not None and len(milestones) == len(parts) - 1:
        lengths = [end - start for start, end in itertools.pairwise([0, *milestones, length])]
    return [
        build(part["name"], {k: v for k, v in part.items() if k != "name"}, optimizer, own, filled)
        for part, own in zip(parts, lengths, strict=True)
    ]


def _per_group(key: str, value: object, optimizer: Optimizer) -> object:
    """The argument; rates that are listed per layer group as rates per parameter group."""
    if key not in ("base_lr", "min_lr") or not isinstance(value, list):
        return value
    layers = [group["group"] for group in optimizer.param_groups]
    if len(value) != max(layers) + 1:
        raise ValueError(f"{key} must list {max(layers) + 1} rates, one per layer group, not {len(value)}")
    return [value[layer] for layer in layers]


def arguments_of(kind: Callable[..., Any]) -> frozenset[str]:
    """What scheduler_arguments may hold; the highest rates are learning_rate's, and JSON has no functions."""
    fixed = {"optimizer", "last_epoch", "max_lr", "scale_fn"}
    return frozenset(inspect.signature(kind).parameters) - fixed | {"interval"}
