"""A finished experiment on one split: outputs, metrics with intervals, and what other programs read of them."""

import dataclasses
import functools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from config import run_folder
from config.run_folder import RunFolder
from images.folder import check_headers, fingerprint, scan
from model.data_loader import Loader, fetch_dataloader
from model.loss import Loss, make_loss
from model.metric import compute, metrics
from reports.calibrating import calibrate, told
from reports.calibration import measures
from reports.classification import classification_report, metrics_table
from reports.confusion import confusion_csv, confusion_figure, confusion_matrix
from reports.intervals import intervals
from reports.misclassified import misclassified_csv
from reports.slices import read_columns
from reports.subject import Options, Question, Subject
from training.build import class_counts
from training.checkpoint import npz_bytes
from training.evaluation import VIEWS, Predictions, predict
from training.machine import choose_machine
from training.trained import load_trained
from utils import UserError, log, printable, read_json


def evaluate(folder: RunFolder, data_dir: Path, question: Question, options: Options) -> Subject:
    """Evaluates an experiment and writes its metrics and the tables of its report.

    Args:
        folder: the experiment.
        data_dir: data/<name> with train/ and the split.
        question: what to evaluate.
        options: of the report that may follow.

    Returns:
        All that was found out, as the report takes it.

    Raises:
        UserError: the experiment was not trained, or the data is not what it was trained for.
    """
    trained = load_trained(folder, question.weights)
    params = trained.params
    data, skipped = check_headers(scan(data_dir, _splits(data_dir, question)), params.max_megapixels, params.skip_bad)
    for path, reason in skipped:
        log.warning("left out: %s: %s", printable(path), reason)
    same_data = trained.check_data(data)
    machine = choose_machine(params, None, exact=False)
    net = machine.take(trained.net()).eval()

    def outputs_on(split: str) -> tuple[Loader, Predictions]:
        if split not in data.splits:
            raise UserError(f"{printable(str(data_dir))}: has no {split}/, on which the temperature is fitted")
        loader = fetch_dataloader((split,), data.root, params, machine.device, None, data)[split]
        return loader, predict(net, loader, machine.autocast, views=VIEWS[question.tta])

    split_fingerprint = fingerprint(dataclasses.replace(data, splits={question.split: data.splits[question.split]}))
    if options.against is not None:
        options.against.check(data.classes, data.splits[question.split].paths, split_fingerprint)
    if options.slices is not None:
        read_columns(options.slices, data.splits[question.split].paths)  # refused before the test set is opened
    calibration = None
    if question.calibrated:  # first: what it refuses is told before the test set is opened
        how = (question.weights, question.tta, options.accuracy_target, same_data)
        calibration = calibrate(folder, *how, lambda: outputs_on("valid")[1])
    loader, outputs = outputs_on(question.split)
    if calibration is not None:
        outputs = Predictions(outputs.logits.astype(np.float64) / calibration.temperature, outputs.labels)
    names = [name for name, metric in metrics.items() if metric.suits(len(data.classes), data.multi_label)]
    loss = make_loss(params.loss, params.loss_arguments, class_counts(data), data.multi_label)
    values = compute(names, outputs.logits, outputs.labels, loss)

    losses = functools.partial(_losses, loss)
    subject = Subject(
        folder=folder,
        question=question,
        params=params,
        environment=trained.environment,
        history=folder.read_json(run_folder.HISTORY),
        data=data,
        loader=loader,
        machine=machine,
        net=net,
        logits=outputs.logits,
        labels=outputs.labels,
        losses=losses(outputs.logits, outputs.labels),
        values=values,
        intervals=intervals(names, outputs.logits, outputs.labels, losses, params.seed),
        epoch=folder.read_json(run_folder.metrics_name("valid", question.weights))["epoch"],
        same_data=same_data,
        fingerprint=split_fingerprint,
        options=options,
        calibration=calibration,
    )
    openings = log_opening(folder, question) if question.split == "test" else 0  # before a number can be seen
    write_tables(subject)
    log.info("%s", metrics_table(values, subject.intervals))
    for line in told(calibration, outputs.logits, outputs.labels, question.split) if calibration else ():
        log.info("%s", line)
    if openings:
        log.info("the test set has been opened %d time%s for this experiment", openings, "s" if openings > 1 else "")
    return subject


def _losses(loss: Loss, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The loss of each image (N,)."""
    return np.array([float(loss(logits[i : i + 1], labels[i : i + 1])) for i in range(len(labels))])


def _splits(data_dir: Path, question: Question) -> tuple[str, ...]:
    """The split asked for, and those of the training, as far as they are there."""
    others = [split for split in ("train", "valid") if split == "train" or (data_dir / split).is_dir()]
    return tuple(dict.fromkeys((*others, question.split)))


def write_tables(subject: Subject) -> None:
    """Writes the metrics, and what other programs read of the report."""
    folder, question, classes, paths = subject.folder, subject.question, subject.classes, subject.paths
    logits, labels, where, found = subject.logits, subject.labels, question.report, subject.calibration
    result: dict[str, Any] = {
        **subject.values,
        "intervals": subject.intervals,
        "weights": question.weights,
        "split": question.split,
        "tta": question.tta,
        "epoch": subject.epoch,
        "num_images": len(labels),
        "fingerprint": subject.fingerprint,
        "trained_on_this_data": subject.same_data,
        "calibration": {**measures(logits, labels), "temperature": found.temperature if found else None},
    }
    folder.write_json(f"{where}/{run_folder.METRICS}", result)
    if question.split == "test":
        folder.write_json(run_folder.metrics_name("test", question.weights, question.tta, question.calibrated), result)
    report = classification_report(logits, labels, classes, subject.values, subject.intervals)
    folder.write(f"{where}/classification_report.txt", report.encode("utf-8", "backslashreplace"))
    folder.write(f"{where}/misclassified.csv", misclassified_csv(paths, logits, labels, classes))
    predicted = npz_bytes(logits=logits, labels=labels, paths=paths, classes=classes)
    folder.write(f"{where}/{run_folder.PREDICTIONS}", predicted)
    if not subject.multi_label:
        matrix = confusion_matrix(subject.predicted, labels, len(classes))
        folder.write(f"{where}/confusion_matrix.csv", confusion_csv(matrix, classes))
        title = f"{printable(folder.path.name)}: {question.split}, {question.weights} weights"
        folder.write(f"{where}/confusion_matrix.png", confusion_figure(matrix, classes, title))


def log_opening(folder: RunFolder, question: Question) -> int:
    """Writes down that the test set was looked at; returns how often it was, this time included.

    A test set answers once: each further look at it, with other weights or after another choice, makes its score a
    little too good.
    """
    earlier = _openings(folder)
    how = {"weights": question.weights, "tta": question.tta, "calibrated": question.calibrated}
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds")} | how
    folder.write_json(run_folder.TEST_LOG, [*earlier, entry])
    return len(earlier) + 1


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
