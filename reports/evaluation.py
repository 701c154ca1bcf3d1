"""A finished experiment on one split: outputs, metrics with intervals, and the first reports."""

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from config import run_folder
from config.load import load_params
from config.run_folder import RunFolder
from config.schema import Params
from images.folder import DataFolder, check_headers, fingerprint, scan
from model.data_loader import Loader, fetch_dataloader
from model.loss import make_loss
from model.metric import compute, metrics, predictions
from model.net import build_net
from model.weights_file import first_line
from reports.classification import classification_report, metrics_table
from reports.confusion import confusion_csv, confusion_figure, confusion_matrix
from reports.intervals import Interval, intervals
from reports.misclassified import misclassified_csv
from training.build import class_counts
from training.checkpoint import npz_bytes
from training.environment import warn_of_changed_sources
from training.evaluation import Predictions, mirrored, predict
from training.machine import choose_machine
from utils import UserError, log, printable, read_json


@dataclass(frozen=True)
class Question:
    """What to evaluate: weights best, last or averaged; on which split; with a mirrored view added or not."""

    weights: str
    split: str
    tta: bool

    @property
    def report(self) -> str:
        """The folder of its report, inside the experiment folder."""
        return f"{run_folder.REPORT}/{self.split}_{self.weights}{'_tta' * self.tta}"


def evaluate(folder: RunFolder, data_dir: Path, question: Question) -> dict[str, Any]:
    """Evaluates an experiment and writes its metrics and reports.

    Returns:
        What metrics_test_<weights>_weights.json holds.

    Raises:
        UserError: the experiment was not trained, or the data is not what it was trained for.
    """
    params, environment, weights = _trained(folder, question)
    data, skipped = check_headers(scan(data_dir, _splits(data_dir, question)), params.max_megapixels, params.skip_bad)
    for path, reason in skipped:
        log.warning("left out: %s: %s", printable(path), reason)
    same_data = _check_data(folder, environment["data"], data)
    loader, outputs = _outputs(folder, params, data, question, weights)
    names = [name for name, metric in metrics.items() if metric.suits(len(data.classes), data.multi_label)]
    loss = make_loss(params.loss, params.loss_arguments, class_counts(data), data.multi_label)
    values = compute(names, outputs.logits, outputs.labels, loss)
    images = range(len(outputs.labels))
    losses = np.array([float(loss(outputs.logits[i : i + 1], outputs.labels[i : i + 1])) for i in images])
    ends = intervals(names, outputs.logits, outputs.labels, losses, params.seed)
    result = values | {
        "intervals": ends,
        "weights": question.weights,
        "split": question.split,
        "tta": question.tta,
        "epoch": folder.read_json(run_folder.metrics_name("valid", question.weights))["epoch"],
        "num_images": len(outputs.labels),
        "trained_on_this_data": same_data,
    }
    folder.write_json(f"{question.report}/metrics.json", result)
    if question.split == "test":
        folder.write_json(run_folder.metrics_name("test", question.weights, question.tta), result)
    _write_reports(folder, question, loader, outputs, values, ends)
    log.info("%s", metrics_table(values, ends))
    return result


def _trained(folder: RunFolder, question: Question) -> tuple[Params, dict[str, Any], dict[str, Tensor]]:
    """The parameters in force, the environment and the weights of a training, each checked against the manifest."""
    if not folder.file(run_folder.PARAMS_RESOLVED).is_file():
        raise UserError(f"{folder}: holds no trained model; run train.py --model_dir {folder} first")
    folder.read(run_folder.PARAMS_RESOLVED)
    params, name = load_params(folder.file(run_folder.PARAMS_RESOLVED)), run_folder.weights_name(question.weights)
    if params.arch == run_folder.NET:
        folder.read(f"{run_folder.CODE}/{run_folder.NET}")
    if not folder.file(name).is_file():
        raise UserError(f"{folder}/{name}: is not there; training writes it at its end (weights: best, last, averaged)")
    try:
        weights = load_safetensors(folder.read(name))
    except SafetensorError as error:
        raise UserError(f"{folder}/{name}: is no safetensors file ({first_line(error)})") from error
    return params, folder.read_json(run_folder.ENVIRONMENT), weights


def _splits(data_dir: Path, question: Question) -> tuple[str, ...]:
    """The split asked for, and those of the training, as far as they are there."""
    others = [split for split in ("train", "valid") if split == "train" or (data_dir / split).is_dir()]
    return tuple(dict.fromkeys((*others, question.split)))


def _check_data(folder: RunFolder, trained: dict[str, Any], data: DataFolder) -> bool:
    """Refuses other classes; says whether train and valid are the files of the training."""
    root = printable(str(data.root))
    if list(data.classes) != trained["classes"]:
        missing, unknown = (
            printable(", ".join(sorted(names))) or "none"
            for names in (set(trained["classes"]) - set(data.classes), set(data.classes) - set(trained["classes"]))
        )
        raise UserError(
            f"{root}: its classes are not those {folder} was trained for (missing: {missing}; unknown: {unknown})"
        )
    splits = {name: split for name, split in data.splits.items() if name in ("train", "valid")}
    same = fingerprint(dataclasses.replace(data, splits=splits)) == trained["fingerprint"]
    if not same:
        were = printable(str(trained["folder"]))
        log.warning("%s: train and valid are not the files %s was trained with (%s)", root, folder, were)
    return bool(same)


def _outputs(
    folder: RunFolder, params: Params, data: DataFolder, question: Question, weights: dict[str, Tensor]
) -> tuple[Loader, Predictions]:
    """The net as it was trained, run over the split."""
    machine = choose_machine(params, None, exact=False)
    warn_of_changed_sources(folder)
    built = build_net(params.model_copy(update={"pretrain": False}), len(data.classes), folder.file(run_folder.CODE))
    try:
        built.net.load_state_dict(weights)
    except RuntimeError as error:
        name = run_folder.weights_name(question.weights)
        problem = f"does not fit the net of {run_folder.PARAMS_RESOLVED}: {first_line(error)}"
        raise UserError(f"{folder}/{name}: {problem}") from error
    loaders = fetch_dataloader((question.split,), data.root, params, machine.device, None, data)
    views = (mirrored,) if question.tta else ()
    return loaders[question.split], predict(
        machine.take(built.net), loaders[question.split], machine.autocast, views=views
    )


def _write_reports(
    folder: RunFolder,
    question: Question,
    loader: Loader,
    outputs: Predictions,
    values: dict[str, float],
    ends: dict[str, Interval],
) -> None:
    logits, labels, classes, paths = outputs.logits, outputs.labels, loader.classes, loader.split.paths
    where = question.report
    report = classification_report(logits, labels, classes, values, ends)
    folder.write(f"{where}/classification_report.txt", report.encode("utf-8", "backslashreplace"))
    folder.write(f"{where}/misclassified.csv", misclassified_csv(paths, logits, labels, classes))
    folder.write(f"{where}/predictions.npz", npz_bytes(logits=logits, labels=labels, paths=paths, classes=classes))
    if labels.ndim == 1:
        matrix = confusion_matrix(predictions(logits, False), labels, len(classes))
        folder.write(f"{where}/confusion_matrix.csv", confusion_csv(matrix, classes))
        title = f"{printable(folder.path.name)}: {question.split}, {question.weights} weights"
        folder.write(f"{where}/confusion_matrix.png", confusion_figure(matrix, classes, title))


def log_opening(folder: RunFolder, question: Question) -> int:
    """Writes down that the test set was looked at; returns how often it was, this time included.

    A test set answers once: each further look at it, with other weights or after another choice, makes its score a
    little too good.
    """
    openings = _openings(folder)
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "weights": question.weights, "tta": question.tta}
    folder.write_json(run_folder.TEST_LOG, [*openings, entry])
    return len(openings) + 1


def _openings(folder: RunFolder) -> list[Any]:
    """What is written of earlier openings, as far as it can be read: it cannot be written anew from anything."""
    path = folder.file(run_folder.TEST_LOG)
    if not path.is_file():
        return []
    if not folder.intact(run_folder.TEST_LOG):
        log.warning("%s/%s: damaged or changed; the test set may have been opened more often", folder, path.name)
    try:
        found = read_json(path)
    except UserError:
        return []
    return found if isinstance(found, list) else []
