"""What a run is made of, as files: written at its start, kept in its checkpoint, written anew when damaged."""

import json
import pickle
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from config import run_folder
from config.run_folder import RunFolder
from config.schema import Params
from images.augment import describe as describe_augmentation
from images.folder import DataFolder
from model.summary import summarise
from training import environment
from training.build import Built, input_shape
from training.machine import Machine, reasons
from training.processes import Processes
from utils import log, printable, to_json


def describe(
    folder: RunFolder,
    params: Params,
    data: DataFolder,
    left_out: dict[str, str],
    fingerprint: str,
    built: Built,
    machine: Machine,
    processes: Processes,
) -> dict[str, bytes]:
    """The files that say what a run is made of, by name; says the most important of it in the log too.

    Args:
        folder: the experiment; its own net.py is kept too.
        params: as params.json has them.
        data: what it trains on.
        left_out: images without a readable header, and why.
        fingerprint: of the data.
        built: the parts and the parameters in force.
        machine: what it runs on.
        processes: that train it.
    """
    train, valid = built.parts.train, built.parts.valid
    counts = {name: len(split.paths) for name, split in data.splits.items()}
    about_data = {
        "folder": str(data.root),
        "fingerprint": fingerprint,
        "images": counts,
        "left_out": left_out | dict(train.store.dropped) | dict(valid.store.dropped),
        "classes": list(data.classes),
        "multi_label": data.multi_label,
    }
    why = reasons(params, machine)
    choices = {
        "seed": params.seed,
        "machine": asdict(machine) | {"why": why},
        "weights": built.weights,
        "data": about_data,
    }
    choices["processes"] = processes.description()
    made_with = environment.program()
    summary = summarise(built.parts.net, input_shape(built.params), built.groups)
    log.info("%s", summary)
    images = ", ".join(f"{count} {name}" for name, count in counts.items())
    log.info("%s: %s images of %d classes", printable(str(data.root)), images, len(data.classes))
    log.info("%s on %s, %s, %s, %d threads", params.arch, machine.device, machine.precision, machine.memory_format,
             machine.threads)  # fmt: skip
    for name, reason in why.items():
        log.info("%s: %s", name, reason, extra={"file_only": True})
    return {
        run_folder.PARAMS_RESOLVED: to_json(built.params.model_dump(mode="json")),
        run_folder.ENVIRONMENT: to_json(environment.describe(torch.device(machine.device), made_with) | choices),
        run_folder.AUGMENTATION: to_json(describe_augmentation(train.augment) if train.augment else None),
        run_folder.AUGMENTATION_PICKLE: pickle.dumps(train.augment),
        run_folder.NET_SUMMARY: summary.encode(),
        **environment.sources(folder, made_with),
    }


def pack(files: Mapping[str, bytes]) -> Tensor:
    """Files as what a checkpoint can hold: one uint8 tensor."""
    text = json.dumps({name: data.decode("latin-1") for name, data in files.items()})
    return torch.frombuffer(bytearray(zlib.compress(text.encode(), level=1)), dtype=torch.uint8)


def unpack(packed: Tensor) -> dict[str, bytes]:
    """The files again."""
    files: dict[str, Any] = json.loads(zlib.decompress(packed.numpy().tobytes()))
    return {name: text.encode("latin-1") for name, text in files.items()}
