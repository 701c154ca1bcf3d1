"""ROC and precision-recall curves, as a part of the report."""

import math
from typing import Final

import numpy as np

from reports.curves import KINDS, MOST_LINES, areas, curves, curves_csv, curves_figure
from reports.page import Section, details, join, paragraph, picture, short, table
from reports.subject import Subject
from reports.tables import csv_bytes

TITLE: Final = "ROC and precision-recall"


def section(subject: Subject) -> Section:
    """The part of the report."""
    if not np.isfinite(subject.logits).all():
        return Section("curves", TITLE, paragraph("Some logits are not finite: there is no curve."))
    found = [curves(kind, subject.probabilities, subject.labels) for kind in KINDS]
    figure = curves_figure(found, subject.classes)
    by_class = list(zip(subject.classes, *(areas(kind, len(subject.classes)) for kind in found), strict=True))
    rows = [("mean over classes", *(_area(kind.macro) for kind in found))]
    rows.append(("all together", *(_area(kind.micro.area if kind.micro else math.nan) for kind in found)))
    rows += [(short(name, 40), _area(one), _area(two)) for name, one, two in by_class]
    header = ["each class against the rest", "area under ROC", "average precision"]
    every = details("Table of areas", table(header, rows, label="Areas under the curves"))
    some = f" The {MOST_LINES} classes with the smallest areas are drawn." if len(subject.classes) > MOST_LINES else ""
    text = (
        "Each class is told from the rest by its probability; “all together” takes each image and class as a decision."
    )
    text += some
    missing = len(subject.classes) - len(found[0].by_class)
    if missing:
        text += f" {missing:,} classes have no curve, as no image, or every image, is of them."
    alt = f"ROC and precision-recall curves; mean areas {_area(found[0].macro)} and {_area(found[1].macro)}"
    files = {"curves.png": figure, "areas.csv": csv_bytes(["class", "roc", "average precision"], by_class)}
    files |= {f"{kind.kind.lower().replace('-', '_')}_curves.csv": curves_csv(kind, subject.classes) for kind in found}
    return Section("curves", TITLE, join(paragraph(text), picture(figure, alt, True), every), files)


def _area(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"
