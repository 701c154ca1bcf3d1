"""A finished experiment on one split: outputs, metrics with intervals, and the first reports."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from config import run_folder
from config.run_folder import RunFolder
from images.folder import DataFolder, check_headers, scan
from model.data_loader import Loader, fetch_dataloader
from model.loss import make_loss
from model.metric import compute, metrics, predictions
from reports.classification import classification_report, metrics_table
from reports.confusion import confusion_csv, confusion_figure, confusion_matrix
from reports.intervals import Interval, intervals
from reports.misclassified import misclassified_csv
from training.build import class_counts
from training.checkpoint import npz_bytes
from training.evaluation import Predictions, mirrored, predict
from training.machine import choose_machine
from training.trained import Trained, load_trained
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
    trained = load_trained(folder, question.weights)
    params = trained.params
    data, skipped = check_headers(scan(data_dir, _splits(data_dir, question)), params.max_megapixels, params.skip_bad)
    for path, reason in skipped:
        log.warning("left out: %s: %s", printable(path), reason)
    same_data = trained.check_data(data)
    loader, outputs = _outputs(trained, data, question)
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


def _splits(data_dir: Path, question: Question) -> tuple[str, ...]:
    """The split asked for, and those of the training, as far as they are there."""
    others = [split for split in ("train", "valid") if split == "train" or (data_dir / split).is_dir()]
    return tuple(dict.fromkeys((*others, question.split)))


def _outputs(trained: Trained, data: DataFolder, question: Question) -> tuple[Loader, Predictions]:
    """The net as it was trained, run over the split."""
    machine = choose_machine(trained.params, None, exact=False)
    net = machine.take(trained.net())
    loader = fetch_dataloader((question.split,), data.root, trained.params, machine.device, None, data)[question.split]
    return loader, predict(net, loader, machine.autocast, views=(mirrored,) if question.tta else ())


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
