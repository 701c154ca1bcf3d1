"""Pretrained weights: where they come from, what is known about them, and how they get into a net."""

import contextlib
import hashlib
import socket
import sys
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import torch

import include
from config.load import is_weights_path
from config.run_folder import ENVIRONMENT, PARAMS_RESOLVED, RunFolder, weights_name
from config.schema import Params
from model import backbones, mambavision, weights_file
from model.backbones import Backbone
from model.weights_file import first_line
from utils import UserError, did_you_mean, log, optional_import, printable, read_json

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

CONNECTION_SECONDS: Final = 30.0
OWN_FILE: Final = 'or give a file of your own: "pretrain": "<path>"'
# The published weights of these two expect pixels scaled to [-1, 1]; torchvision rescales them inside the net instead.
CENTRED: Final = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Weights:
    """A weights file and what is known about it.

    Args:
        path: the file.
        source: where it is from, in words.
        licence: as its publisher states it.
        statistics: channel means and deviations that the weights expect, of pixels scaled to [0, 1].
    """

    path: Path
    source: str
    licence: str
    statistics: Statistics | None


# --- finding ----------------------------------------------------------------------------------------------------------


def find(params: Params, library: backbones.Library | None) -> Weights | None:
    """The weights that `pretrain` asks for, downloaded when they must be; None for a start from random weights.

    Raises:
        UserError: there is no such file or name, or it cannot be downloaded.
    """
    if params.pretrain is False:
        return None
    if is_weights_path(params.pretrain):
        return _local(str(params.pretrain), params, library)
    if library is not None:
        return {"torchvision": _torchvision, "timm": _timm, "mambavision": _mambavision}[library](params)
    if params.pretrain is True:
        log.info("%s has no pretrained weights; it starts from random ones", params.arch)
        return None
    raise UserError(f'pretrain: {params.arch} has no weights "{params.pretrain}", {OWN_FILE}')


def _local(name: str, params: Params, library: backbones.Library | None) -> Weights:
    try:
        path = Path(name).expanduser()
        is_folder = path.is_dir()
    except (OSError, RuntimeError) as error:
        raise UserError(f'pretrain: "{name}" cannot be found ({first_line(error)})') from error
    statistics = None
    if library == "torchvision":
        statistics = _torchvision_statistics(params.arch, _entry(params.arch, "DEFAULT"))
    elif library == "timm" and (config := _timm_config(params.arch)):
        statistics = (tuple(config.mean), tuple(config.std))
    elif library == "mambavision":
        statistics = (include.IMAGENET_MEAN, include.IMAGENET_STD)
    if not is_folder:
        return Weights(path, "local file", "not known", statistics)
    run = RunFolder(path)
    run.read(weights_name("best"))  # compares it with the manifest
    resolved = run.file(PARAMS_RESOLVED)
    normalize = read_json(resolved).get("normalize") if resolved.is_file() else None
    if isinstance(normalize, dict):
        statistics = (tuple(normalize["mean"]), tuple(normalize["std"]))
    source = f"experiment {path.resolve().name}"
    return Weights(run.file(weights_name("best")), source, _inherited_licence(run), statistics)


def _inherited_licence(run: RunFolder) -> str:
    """That of the weights an experiment started from, which may bind what is made from them."""
    environment = run.file(ENVIRONMENT)
    started_from = read_json(environment).get("weights") if environment.is_file() else None
    return str(started_from["licence"]) if started_from else "not known"


# --- torchvision ------------------------------------------------------------------------------------------------------


def _torchvision(params: Params) -> Weights:
    entry = _entry(params.arch, "DEFAULT" if params.pretrain is True else str(params.pretrain))
    source = f"torchvision {type(entry).__name__}.{entry.name}"
    licence = entry.meta.get("license", "not stated; torchvision is BSD-3-Clause, trained on ImageNet-1k")
    return Weights(_download(entry.url, source), source, licence, _torchvision_statistics(params.arch, entry))


def _entry(arch: str, name: str) -> Any:
    from torchvision import models

    entries = models.get_model_weights(arch)
    table = {entry.name: entry for entry in entries} | {str(entry): entry for entry in entries}
    table["DEFAULT"] = entries.DEFAULT
    if name not in table:
        known = [entry.name for entry in entries]
        raise UserError(f'pretrain: "{name}" is not a weights name of {arch}{did_you_mean(name, known)}')
    return table[name]


def _torchvision_statistics(arch: str, entry: Any) -> Statistics:
    if arch in CENTRED:
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    preset = entry.transforms()
    return tuple(preset.mean), tuple(preset.std)


# --- timm -------------------------------------------------------------------------------------------------------------


def _timm(params: Params) -> Weights:
    name = backbones.timm_name(params.arch)
    if isinstance(params.pretrain, str):
        name = f"{name.partition('.')[0]}.{params.pretrain.rpartition('.')[2]}"
    config = _timm_config(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise UserError(f'pretrain: timm has no weights for {params.arch}; use "pretrain": 0')
    source = f"timm {config.architecture}.{config.tag}"
    path = _from_hub(config, source) if config.hf_hub_id else _download(config.url, source)
    return Weights(path, source, config.license or "not stated", (tuple(config.mean), tuple(config.std)))


def _timm_config(name: str) -> Any:
    timm = optional_import("timm", "timm")
    name = backbones.timm_name(name)
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        arch = name.partition(".")[0]
        known = timm.list_models(f"{arch}.*", pretrained=True)
        raise UserError(f'pretrain: "{name}" is not a weights name of {arch}{did_you_mean(name, known)}') from error


def _from_hub(config: Any, source: str) -> Path:
    hub = optional_import("huggingface_hub", "huggingface_hub")
    name = config.hf_hub_filename or "model.safetensors"
    try:
        return Path(hub.hf_hub_download(config.hf_hub_id, name))
    except Exception as error:  # a wide family of errors, most of them of other libraries
        folder = Path(hub.constants.HF_HUB_CACHE) / f"models--{config.hf_hub_id.replace('/', '--')}"
        raise UserError(
            f"pretrain: {source} cannot be downloaded ({first_line(error)}); expected {name} of "
            f"huggingface.co/{config.hf_hub_id} in {folder}; copy that folder from a machine that has it, {OWN_FILE}"
        ) from error


# --- MambaVision ------------------------------------------------------------------------------------------------------


def _mambavision(params: Params) -> Weights:
    page = f"huggingface.co/nvidia/MambaVision-{params.arch.removeprefix(mambavision.PREFIX).upper()}-1K"
    raise UserError(
        f"pretrain: the published weights of {params.arch} carry {mambavision.LICENCE}, so they are not downloaded; "
        f'use "pretrain": 0, or, if it allows your use, get model.safetensors from {page} and give its path'
    )


# --- files ------------------------------------------------------------------------------------------------------------


def _download(url: str, source: str) -> Path:
    """The file of that address in torch's cache, fetched when it is not there, compared with the digest in its name."""
    name = Path(urlsplit(url).path).name
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / name
    digest = match[1] if (match := torch.hub.HASH_REGEX.search(name)) else ""
    if not path.is_file():
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(CONNECTION_SECONDS)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), digest or None, progress=sys.stderr.isatty())
        except (OSError, RuntimeError, HTTPException) as error:
            raise UserError(
                f"pretrain: {source} cannot be downloaded ({first_line(error)}); put {name} into {folder}, {OWN_FILE}"
            ) from error
        finally:
            socket.setdefaulttimeout(before)
    if not _sha256(path).startswith(digest):
        raise UserError(f"{path}: damaged, its sha256 does not begin with {digest}; delete it and run again")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- loading ----------------------------------------------------------------------------------------------------------


def load(backbone: Backbone, weights: Weights, params: Params) -> dict[str, Any]:
    """Loads weights into a net; all but the head must match.

    Returns:
        Provenance: source, file (its name), sha256, licence, and head ("loaded", or "new" when the classes differ).

    Raises:
        UserError: the file cannot be read, or does not fit; listing what does not.
    """
    state = weights_file.read_state(weights.path)
    licence = weights.licence
    if params.arch in mambavision.SIZES and mambavision.is_published(state):
        licence = mambavision.LICENCE
        log.warning("%s: published weights of MambaVision; they carry %s", printable(str(weights.path)), licence)
    where = f"{weights.path}: these weights do not fit {params.arch}"
    for repair in (weights_file.unwrapped, backbone.adapt):
        if not weights_file.same_body(backbone.net, state, backbone.head):
            with contextlib.suppress(Exception):  # whatever becomes of a foreign file, fit() says what is wrong
                state = repair(state)
    loaded = weights_file.fit(backbone.net, state, backbone.head, where)
    return {
        "source": weights.source,
        "file": weights.path.name,
        "sha256": _sha256(weights.path),
        "licence": licence,
        "head": "loaded" if loaded else "new",
    }
