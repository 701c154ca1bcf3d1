"""From checked parameters and a data folder to the parts that `fit` works with."""

import contextlib
import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from config.parts import Monitor as MonitorSettings
from config.parts import Normalization
from config.run_folder import RunFolder
from config.schema import Params
from images.folder import DataFolder
from model.data_loader import Share, fetch_dataloader
from model.freezing import apply_freezing
from model.groups import layer_groups
from model.loss import make_loss
from model.net import build_net
from model.optim import group_rates, make_optimizer
from model.schedule import make_schedule
from training.averaging import EMA, LastEpochs
from training.compiled import compile_net
from training.early_stopping import make_early_stopping
from training.loop import Parts
from training.machine import Machine
from training.monitor import Monitor
from training.processes import Processes
from utils import UserError, printable


@dataclass(frozen=True)
class Built:
    """The parts, and what of them is worth writing down.

    Attributes:
        parts: for `fit`.
        params: every value in force: nothing is "auto" or left to the data any more.
        groups: parameter names per layer group.
        weights: where pretrained weights came from, or None.
    """

    parts: Parts
    params: Params
    groups: list[list[str]]
    weights: dict[str, Any] | None


def build(
    params: Params,
    folder: RunFolder,
    data: DataFolder,
    machine: Machine,
    processes: Processes,
    normalize: Normalization | None = None,
) -> Built:
    """Builds the net, the loaders and everything that trains it.

    Args:
        params: as params.json has them.
        folder: the experiment.
        data: what it trains on.
        machine: what it runs on.
        processes: that train it.
        normalize: of a run that is continued: what it was started with. Its weights are in its checkpoint, so those it
            started from are not asked for again.

    Raises:
        UserError: parameters that do not fit the data or the net.
    """
    num_classes = len(data.classes)
    if params.n_clas not in (None, num_classes):
        raise UserError(
            f"n_clas is {params.n_clas}, but {printable(str(data.root))} has {num_classes} classes: "
            f"{printable(', '.join(data.classes))}"
        )
    if params.batch_size < processes.count:
        raise UserError(f"batch_size is {params.batch_size}: too few images to share among {processes.count} processes")
    begun = {} if normalize is None else {"pretrain": False, "normalize": normalize}
    started = params.model_copy(update=begun)
    torch.manual_seed(params.seed)  # the net's first weights
    built = build_net(started, num_classes, folder.path)
    groups = _groups(built.net, params, num_classes)
    net = processes.prepare(machine.take(built.net))
    if params.compile:
        compile_net(net)
    rates = group_rates(params.learning_rate, len(groups))
    optimizer = make_optimizer(params.optimizer, params.optimizer_arguments, net, groups, rates, params.wd)
    types = ("train", "valid")
    share = Share(processes.index, processes.count, processes.sharers)
    loaders = fetch_dataloader(types, data.root, started, machine.device, built.statistics, data, folder.unlock, share)
    steps = -(-len(loaders["train"]) // params.gradient_accumulation)
    schedule = make_schedule(params, optimizer, steps)

    def prepare_net(epoch: int) -> None:
        net.train()
        apply_freezing(net, groups, epoch, params.freeze, params.unfreeze_epochs, params.batch_norm, rates)

    if min(params.batch_size, len(loaders["train"].split.paths)) == 1:
        copied = copy.deepcopy(net).train()
        last = params.num_epochs - 1  # when the most layers learn
        apply_freezing(copied, groups, last, params.freeze, params.unfreeze_epochs, params.batch_norm, rates)
        _refuse_one_image(copied, params, machine)
    parts = Parts(
        processes=processes,
        net=net,
        forward=processes.spread(net),
        train=loaders["train"],
        valid=loaders["valid"],
        loss=make_loss(params.loss, params.loss_arguments, class_counts(data), data.multi_label),
        optimizer=optimizer,
        schedule=schedule,
        prepare_net=prepare_net,
        autocast=machine.autocast,
        scaler=machine.scaler(),
        ema=EMA(net, params.ema_decay) if params.ema_decay else None,
        last_epochs=LastEpochs(params.average_epochs),
        stopping=make_early_stopping(params.early_stopping, schedule, params.num_epochs)
        if params.early_stopping
        else None,
        monitor=Monitor(net, groups, optimizer, _watched(params) if processes.first else None),
        metrics=tuple(params.metrics),
        best_metric=params.best_metric,
        num_epochs=params.num_epochs,
        gradient_accumulation=params.gradient_accumulation,
        gradient_clip=params.gradient_clip,
        save_summary_steps=params.save_summary_steps,
        seed=params.seed,
    )
    return Built(parts, _in_force(params, parts, machine, len(groups), num_classes), groups, built.weights)


def input_shape(params: Params) -> tuple[int, int, int, int]:
    """Shape of one image as the net takes it."""
    return (1, params.channels, params.im_sz, params.im_sz)


def class_counts(data: DataFolder) -> list[int]:
    """Training images of each class."""
    targets = data.splits["train"].targets
    single = targets.ndim == 1
    counts = np.bincount(targets, minlength=len(data.classes)) if single else targets.sum(axis=0)
    return [int(count) for count in counts]


def _groups(net: nn.Module, params: Params, num_classes: int) -> list[list[str]]:
    """The layer groups: as many as asked for; where nothing was asked, the default or as many as the net has."""
    fewest = params.layer_groups if "layer_groups" in params.model_fields_set else 1
    for count in range(params.layer_groups, fewest, -1):
        with contextlib.suppress(UserError):
            return layer_groups(net, count, input_shape(params), num_classes)
    return layer_groups(net, fewest, input_shape(params), num_classes)


def _refuse_one_image(net: nn.Module, params: Params, machine: Machine) -> None:
    """BatchNorm cannot learn from one image where each channel has one number of it."""
    image = torch.zeros(input_shape(params), device=machine.device)
    try:
        with torch.no_grad(), machine.autocast():
            net.forward(image)
    except ValueError as error:
        raise UserError(
            f'{params.arch} cannot be trained on one image at a time ({error}); give 2 or more, or "batch_norm": '
            '"all_eval" where it is the body\'s'
        ) from error


def _watched(params: Params) -> MonitorSettings | None:
    return (MonitorSettings() if params.monitor is True else params.monitor) or None


def _in_force(params: Params, parts: Parts, machine: Machine, groups: int, num_classes: int) -> Params:
    decided = {
        "layer_groups": groups,
        "n_clas": num_classes,
        "bs_test": params.bs_test or params.batch_size,
        "precision": machine.precision,
        "memory_format": machine.memory_format,
        "threads": machine.threads,
        "normalize": Normalization(mean=list(parts.train.mean), std=list(parts.train.std)),
    }
    return params.model_copy(update=decided)
