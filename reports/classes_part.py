"""How well each class is recognised, as a part of the report."""

import math
from collections.abc import Sequence

from reports.classes import MOST_BARS, class_scores, classes_csv, classes_figure, worst_first
from reports.page import Section, details, join, paragraph, picture, short, table
from reports.subject import Subject


def section(subject: Subject) -> Section:
    """The part of the report."""
    scores = class_scores(subject.logits, subject.labels)
    figure, classes = classes_figure(scores, subject.classes), subject.classes
    rows: list[Sequence[str | int]] = [
        (
            short(classes[score.index], 40),
            score.support,
            score.given,
            *(_with_interval(score.scores[name], *score.intervals[name]) for name in ("precision", "recall", "f1")),
        )
        for score in scores
    ]
    header = ["class", "images", "predicted", "precision", "recall", "F1"]
    every = details("Table of all classes", table(header, rows, label="Scores of each class"))
    worst = worst_first(scores)[0]
    lowest = f"{short(classes[worst.index], 40)} has the lowest F1"
    of_many = f"The picture has the {MOST_BARS} classes with the lowest F1. " if len(classes) > MOST_BARS else ""
    score = "undefined" if math.isnan(worst.scores["f1"]) else f"{worst.scores['f1']:.4f}"
    alt = f"Bars of precision, recall and F1 by class; {lowest}, {score}"
    text = paragraph(f"{of_many}{lowest}: {score}. Few images make wide intervals.")
    files = {"classes.png": figure, "classes.csv": classes_csv(scores, classes)}
    return Section("classes", "Classes", join(text, picture(figure, alt), every), files)


def _with_interval(value: float, low: float, high: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f} ({low:.4f} to {high:.4f})"
