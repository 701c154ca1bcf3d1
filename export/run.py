"""One experiment into files that other programs run: each is made, compared with PyTorch, and only then written."""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from config import run_folder
from config.run_folder import RunFolder
from export import checks
from export.card import model_card
from export.gate import Verdict, judge, recommend
from export.graph import net_model, whole_model
from export.predictor import Predictor
from export.program import open_program, program_bytes
from export.quantize import Attempt, attempts
from export.reference import contract_of, fed, reference
from export.session import Outputs, Run, open_session, run_of
from images.folder import DataFolder, check_headers, scan
from images.read import Pixels
from model import weights_file
from model.metric import accuracy
from model.net import build_net
from training.trained import Trained, load_trained
from utils import UserError, log, make_folder, printable, read_json, to_json, write_atomic

CALIBRATION_IMAGES: Final = 256
CALIBRATION_BATCH: Final = 8  # whose activations are in memory at a time
VERSIONS: Final = ("torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Request:
    """What to export.

    Attributes:
        weights: best, last or averaged.
        formats: of export.contract.FORMATS.
        int8: whether to try a quantised ONNX file too.
        images: valid images to check with, at most.
        out: where to write; None: export/ in the experiment.
    """

    weights: str
    formats: tuple[str, ...]
    int8: bool
    images: int
    out: Path | None


class Job:
    """One export on its way: the net, and the images it is checked with."""

    def __init__(self, trained: Trained, data: DataFolder, images: int) -> None:
        self.trained, self.data = trained, data
        self.contract, self.net = contract_of(trained), trained.net()
        self.reference = reference(trained, self.net, self.contract)
        split = data.splits["valid"]
        positions = _spread(len(split.paths), images)
        predictor = Predictor(self.contract, self.reference)
        self.paths, self.images, read = checks.readable(
            predictor, [data.root / split.paths[index] for index in positions], trained.params.skip_bad
        )
        if not self.paths:
            raise UserError(f"{printable(str(data.root))}: none of the valid images that were looked at can be read")
        self.labels = split.targets[positions[read]]
        self.files: dict[str, bytes] = {}
        self.about: dict[str, dict[str, Any]] = {}

    def add(self, name: str, content: bytes, about: str, **facts: Any) -> None:
        """Takes a file in that has passed its checks."""
        self.files[name] = content
        common = {"weights": self.contract.weights, "weights_sha256": self.contract.weights_sha256}
        size = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        self.about[name] = {"about": about, **size, **common, **facts}

    def compare(self, what: str, run: Run) -> checks.Parity:
        """Compares a way of computing with PyTorch.

        Raises:
            TrainingFault: they differ.
        """
        found = checks.parity(self.reference, run, self.images, self.contract.multi_label)
        found.require(f"{self.trained.folder}: {what}")
        log.info(
            "%s: equal to PyTorch on %d images (probabilities within %.1e, logits within %.1e of their range)",
            what, found.images, found.probabilities, found.of_range,
        )  # fmt: skip
        return found

    @cached_property
    def expected(self) -> Outputs:
        """PyTorch's probabilities and logits of all images that are checked with."""
        return checks.outputs(Predictor(self.contract, self.reference), self.paths, "PyTorch")

    def calibration(self) -> Iterator[NDArray[np.float32]]:
        """Training images, evenly over the classes, as the net is fed them in evaluation."""
        split, predictor = self.data.splits["train"], Predictor(self.contract, self.reference)
        positions = _spread(len(split.paths), CALIBRATION_IMAGES)
        for start in range(0, len(positions), CALIBRATION_BATCH):
            part = [self.data.root / split.paths[index] for index in positions[start : start + CALIBRATION_BATCH]]
            _, images, _ = checks.readable(predictor, part, self.trained.params.skip_bad)
            if images:
                parts = [fed(self.trained, image[None], self.contract) for image in images]
                yield torch.cat(parts).numpy()


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Positions evenly over a list, which is sorted by class."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def export(folder: RunFolder, data_dir: Path, request: Request) -> dict[str, Any]:
    """Exports an experiment.

    Returns:
        What export.json holds.

    Raises:
        UserError: the experiment was not trained, the data is not of its classes, or a package is missing.
        TrainingFault: a format cannot express the net, or does not give what PyTorch gives; nothing was written.
    """
    trained = load_trained(folder, request.weights)
    data, _ = check_headers(scan(data_dir), trained.params.max_megapixels, trained.params.skip_bad)
    trained.check_data(data)
    job = Job(trained, data, request.images)
    result: dict[str, Any] = {}
    if "onnx" in request.formats:
        result |= _onnx(job, request.int8)
    if "pt2" in request.formats:
        _pt2(job)
    if "safetensors" in request.formats:
        _safetensors(job)
    return _write(job, request.out, result)


# --- the formats -----------------------------------------------------------------------------------------------------


def _onnx(job: Job, int8: bool) -> dict[str, Any]:
    net = net_model(job.net, job.contract)
    content = whole_model(net, job.contract).SerializeToString()
    run = run_of(open_session(content, run_folder.MODEL_ONNX))
    facts = {"parity": job.compare(run_folder.MODEL_ONNX, run).as_json()}
    predictor = Predictor(job.contract, run)
    outputs = checks.outputs(predictor, job.paths, "onnxruntime")
    multi_label = job.contract.multi_label
    everything = checks.compared(job.expected, outputs, multi_label)
    everything.require(f"{job.trained.folder}: {run_folder.MODEL_ONNX}")
    facts["predictions"] = everything.as_json() | {"accuracy": accuracy(outputs[1], job.labels)}
    runs = {"pytorch": job.reference, "float32": run}
    job.add(run_folder.MODEL_ONNX, content, "ONNX, float32", **facts)
    if not int8:
        return {"milliseconds": _timed(runs, job.images)}
    attempt, verdict, small = _best_int8(job, net, outputs[1], len(content))
    runs["int8"] = run_of(open_session(small, run_folder.MODEL_INT8))
    times = _timed(runs, job.images)
    choice, why = recommend(verdict, times)
    how = {"calibration": attempt.calibration, "kept_float32": list(attempt.kept_float)}
    if not verdict.reasons:
        about = "ONNX, weights and activations in 8 bits"
        job.add(run_folder.MODEL_INT8, small, about, gate=verdict.as_json(), **how)
    name = run_folder.MODEL_INT8 if choice == "int8" else run_folder.MODEL_ONNX
    log.info("recommended: %s (%s)", name, why)
    return {"milliseconds": times, "recommended": name, "because": why, "int8": verdict.as_json() | how}


def _best_int8(job: Job, net: Any, logits: checks.Logits, size: int) -> tuple[Attempt, Verdict, bytes]:
    """The first attempt that is good enough, else the one that loses least."""
    unlike = {"precision": "int8", "threshold": None, "accuracy_target": None}  # the promise is float32's
    contract = job.contract.model_copy(update=unlike)
    found: list[tuple[Attempt, Verdict, bytes]] = []
    for attempt in attempts(net, job.calibration):
        content = whole_model(attempt.net, contract).SerializeToString()
        predictor = Predictor(contract, run_of(open_session(content, run_folder.MODEL_INT8)))
        _, quantised = checks.outputs(predictor, job.paths, "int8")
        verdict = judge(logits, quantised, job.labels, len(content) / size)
        found.append((attempt, verdict, content))
        kept = f", {len(attempt.kept_float)} layers in float32" if attempt.kept_float else ""
        log.info("int8 (%s%s): %s", attempt.calibration, kept, verdict)
        if not verdict.reasons:
            return found[-1]
    return max(found, key=lambda one: (-len(one[1].reasons), one[1].difference.value))


def _timed(runs: Mapping[str, Run], images: Sequence[Pixels]) -> dict[str, dict[str, float]]:
    found = {str(batch): checks.milliseconds(runs, images, batch) for batch in (1, 8)}
    for batch, times in found.items():
        log.info("batch %s: %s", batch, ", ".join(f"{name} {value:.2f} ms" for name, value in times.items()))
    return found


def _pt2(job: Job) -> None:
    content = program_bytes(job.net, job.contract)
    found = job.compare(run_folder.MODEL_PT2, open_program(content))
    job.add(run_folder.MODEL_PT2, content, "torch.export program", parity=found.as_json())


def _safetensors(job: Job) -> None:
    """The weights, and what builds the net for them: build_net(Params(**params), num_classes) of this project."""
    trained, contract = job.trained, job.contract
    content = save_safetensors(dict(trained.state), metadata=contract.to_metadata())
    again: nn.Module = build_net(
        trained.params.model_copy(update={"pretrain": False}),
        len(contract.classes),
        trained.folder.file(run_folder.CODE),
    ).net
    weights_file.load(again, load_safetensors(content))
    found = job.compare(run_folder.MODEL_WEIGHTS, reference(trained, again, contract))
    job.add(run_folder.MODEL_WEIGHTS, content, "weights for PyTorch", parity=found.as_json())
    built = {
        "build": "model.net.build_net",
        "params": contract.provenance["params"] | {"pretrain": False},
        "num_classes": len(contract.classes),
    } | json.loads(contract.as_json())
    job.add(run_folder.MODEL_NET, to_json(built), "how to build the net of model.safetensors")
    if trained.params.arch == run_folder.NET:
        source = trained.folder.read(f"{run_folder.CODE}/{run_folder.NET}")
        job.add(run_folder.NET, source, "the net's own source")


# --- writing ---------------------------------------------------------------------------------------------------------


def _write(job: Job, out: Path | None, result: dict[str, Any]) -> dict[str, Any]:
    folder, own = job.trained.folder, job.trained.folder.file(run_folder.EXPORT)
    where = out or own
    names = (run_folder.EXPORT_REPORT, run_folder.MODEL_CARD)
    files = _others(where, job.about) | job.about
    report = {
        "experiment": job.contract.name,
        "files": files,
        **result,
        "images": len(job.labels),
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {name: version(name) for name in VERSIONS if _installed(name)},
    }
    card = model_card(folder, job.contract, job.trained.environment, files)
    job.files |= {names[0]: to_json(report), names[1]: card.encode("utf-8", "backslashreplace")}
    if where.resolve() == own.resolve():
        folder.write_all({f"{run_folder.EXPORT}/{name}": content for name, content in job.files.items()})
    else:
        make_folder(where)
        for name, content in job.files.items():
            write_atomic(where / name, content)
    log.info("written to %s: %s", printable(str(where)), ", ".join(job.files))
    return report


def _others(where: Path, new: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier export says of files that are still there as it wrote them, and are not written anew."""
    try:
        before = read_json(where / run_folder.EXPORT_REPORT)["files"]
        there = {name: about for name, about in before.items() if name not in new and (where / name).is_file()}
        return {name: about for name, about in there.items() if _digest(where / name) == about["sha256"]}
    except (UserError, OSError, LookupError, TypeError, AttributeError):
        return {}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False
