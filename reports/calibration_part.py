"""Confidence, as a part of the report: reliability, what a temperature does to it, and accuracy against coverage."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from reports.calibrating import told
from reports.calibration import decisions, measures, reliability_csv, reliability_figure
from reports.page import Html, Section, join, paragraph, picture, table, tag
from reports.subject import Subject
from reports.threshold import coverage_csv, coverage_figure
from utils import printable

Curves = Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]

NAMES: Final = {
    "ece": "expected calibration error, 15 bins of equal width",
    "ece_equal_mass": "expected calibration error, 15 bins of equal mass",
    "ece_by_luck": "what a perfectly calibrated net stays below in 95% of such splits",
    "brier": "Brier score",
    "nll": "negative log-likelihood",
}


def section(subject: Subject) -> Section:
    """The part of the report."""
    if not np.isfinite(subject.logits).all():
        return Section("calibration", "Confidence", paragraph("Some logits are not finite: there is no confidence."))
    found = subject.calibration
    outputs = {"as trained": subject.logits}
    if found is not None:
        outputs = {
            "as trained": subject.logits * found.temperature,
            f"temperature {found.temperature:.4g}": subject.logits,
        }
    numbers = {name: measures(logits, subject.labels) for name, logits in outputs.items()}
    curves = {name: decisions(logits, subject.labels) for name, logits in outputs.items()}
    rows = [(text, *(f"{of[key]:.4f}" for of in numbers.values())) for key, text in NAMES.items()]
    title = f"{printable(subject.folder.path.name)}: {subject.question}"
    figure = reliability_figure(curves, title)
    files = {"reliability.png": figure, "reliability.csv": reliability_csv(curves)}
    body = [
        paragraph(_introduction(subject)),
        *(paragraph(line[0].upper() + line[1:] + ".") for line in _lines(subject)),
        table(["measure", *numbers], rows, label="Measures of calibration", sortable=False),
        picture(figure, _told_of(numbers), wide=True),
    ]
    if not subject.multi_label:
        body.append(_coverage(subject, curves, title, files))
    return Section("calibration", "Confidence", join(*body), files)


def _introduction(subject: Subject) -> str:
    what = "each class of each image, there or not" if subject.multi_label else "the predicted class of each image"
    text = f"Of decisions with a confidence of 0.8, 0.8 should be right. A decision is {what}. "
    if subject.calibration is None:
        return f"{text}evaluate.py --calibrate divides the logits by a temperature that is fitted on the valid split."
    if subject.question.split == "valid":
        return f"{text}The temperature was fitted on these very images: what it does to others is seen on test."
    return f"{text}The temperature was fitted on the valid split, and changes no predicted class."


def _lines(subject: Subject) -> list[str]:
    found = subject.calibration
    return [] if found is None else told(found, subject.logits, subject.labels, subject.question.split)


def _told_of(numbers: Mapping[str, Mapping[str, float]]) -> str:
    errors = ", ".join(f"{name} {of['ece']:.4f}" for name, of in numbers.items())
    return f"Accuracy against confidence; the expected calibration error is: {errors}"


def _coverage(subject: Subject, curves: Curves, title: str, files: dict[str, bytes]) -> Html:
    """Accuracy where only the confident are answered; adds its files."""
    found = subject.calibration
    target, threshold = (None, None) if found is None else (found.accuracy_target, found.threshold)
    files["coverage.png"] = coverage_figure(curves, title, target, threshold)
    files["coverage.csv"] = coverage_csv(curves)
    note = (
        "If only the most confident images are answered, those are right more often. "
        "evaluate.py --accuracy_target 0.98 chooses on valid the confidence from which on that accuracy is reached."
    )
    shown = "The accuracy of the images that are answered against their share; the rest of its numbers in coverage.csv"
    return join(tag("h3", "Answer only when sure"), paragraph(note), picture(files["coverage.png"], shown))
