"""The metrics with their intervals, as a part of the report."""

import math

from reports.page import Section, join, paragraph, table
from reports.subject import Subject
from reports.tables import csv_bytes


def section(subject: Subject) -> Section:
    """The part of the report."""
    rows = [(name, value, *subject.intervals[name]) for name, value in subject.values.items()]
    shown = [
        (name, _number(value), "undefined" if math.isnan(low) else f"{low:.4f} to {high:.4f}")
        for name, value, low, high in rows
    ]
    note = (
        "The interval says how far a number from so many images may be from what all such images would give: Wilson's "
        "for shares of images, for the others Wilson's with the number of images that the bootstrap finds them worth. "
        "It does not say what another training would give."
    )
    body = join(table(["metric", "value", "95% interval"], shown, label="Metrics"), paragraph(note))
    return Section("metrics", "Metrics", body, {"metrics.csv": csv_bytes(["metric", "value", "low", "high"], rows)})


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"
