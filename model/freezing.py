"""Which layer groups train at an epoch, and in which mode the layers with running statistics run.

A parameter is frozen by requires_grad False and no gradient: with a gradient of zeros AdamW still decays it. Running
statistics are frozen by evaluation mode only: neither requires_grad nor a learning rate of 0 stops them, and
track_running_stats False would normalise by the batch instead.
"""

from collections.abc import Sequence

from torch import nn

from model.groups import declared_head, definition_order, inside, nearest, owner
from utils import UserError


def trainable_groups(
    count: int, epoch: int, freeze: str, unfreeze_epochs: int = 1, rates: Sequence[float] | None = None
) -> list[bool]:
    """Says of each layer group whether it trains at an epoch.

    Args:
        count: number of layer groups, the head last.
        epoch: 0 for the first.
        freeze: "none"; "body": the head alone trains; "gradual": first the head, then one group more, from the top,
            every `unfreeze_epochs` epochs.
        unfreeze_epochs: at least 1.
        rates: each group's highest learning rate; at 0 the group is frozen.

    Raises:
        UserError: there is no body to freeze, or nothing would train.
    """
    if freeze != "none" and count == 1:
        raise UserError(f'freeze: "{freeze}" needs a body and a head; set layer_groups to 2 or more')
    thawed = {"none": count, "body": 1, "gradual": 1 + epoch // unfreeze_epochs}[freeze]
    trains = [index >= count - thawed and (rates is None or rates[index] > 0) for index in range(count)]
    if not any(trains):
        raise UserError(f'freeze: "{freeze}" leaves nothing to train in epoch {epoch + 1}: learning_rate is 0 there')
    return trains


def apply_freezing(
    net: nn.Module,
    groups: Sequence[Sequence[str]],
    epoch: int,
    freeze: str,
    unfreeze_epochs: int,
    batch_norm: str,
    rates: Sequence[float] | None = None,
) -> None:
    """Freezes and thaws the parameters of a net for an epoch, and sets its layers with running statistics to a mode.

    To be called after every `net.train()`, which undoes the modes. What the net's maker fixed (requires_grad False
    before the first call) stays fixed.

    Args:
        net: in training mode; requires_grad, gradients of frozen parameters and modes change.
        groups: from `model.groups.layer_groups`.
        epoch: 0 for the first; with `freeze`, `unfreeze_epochs` and `rates` see `trainable_groups`.
        freeze: "none", "body" or "gradual".
        unfreeze_epochs: at least 1.
        batch_norm: which layers learn statistics: "train", all of them; "frozen_eval", those whose parameters train;
            "all_eval", of these only the head's, which brought no statistics with it.
        rates: each group's highest learning rate.
    """
    trains = trainable_groups(len(groups), epoch, freeze, unfreeze_epochs, rates)
    held: set[str] = net.__dict__.setdefault("held_by_freezing", set())  # what was frozen here, not by the net's maker
    for names, thawed in zip(groups, trains, strict=True):
        for name in names:
            parameter = net.get_parameter(name)
            if thawed and name in held:
                held.remove(name)
                parameter.requires_grad_(True)
            elif not thawed and parameter.requires_grad:
                held.add(name)
                parameter.requires_grad_(False)
                parameter.grad = None
    _set_modes(net, groups, batch_norm)


def _set_modes(net: nn.Module, groups: Sequence[Sequence[str]], batch_norm: str) -> None:
    """A layer without parameters goes the way of the nearest module that has some."""
    owners = {owner(name) for names in groups for name in names}
    head = {owner(name) for name in groups[-1] if len(groups) > 1 or inside(name, declared_head(net))}
    order = definition_order(net)
    for name, module in net.named_modules():
        if "running_var" in module._buffers:  # BatchNorm of any kind, also those of other libraries
            relative = nearest(name, owners, order)
            learns = any(parameter.requires_grad for parameter in net.get_submodule(relative).parameters(recurse=False))
            modes = {"train": True, "frozen_eval": learns, "all_eval": learns and relative in head}
            module.training = modes[batch_norm]
