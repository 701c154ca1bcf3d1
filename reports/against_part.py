"""Two experiments on the same images, as a part of the report: what is gained, what is lost, and why it may be."""

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from config.schema import Params
from model.metric import metrics, rightly
from reports.comparison import Difference, over_images, over_resampled_images
from reports.gallery import gallery, links
from reports.other import Other
from reports.page import Html, Section, details, join, paragraph, short, table, tag
from reports.sheets import sheet, sheet_figure
from reports.subject import Subject
from reports.summary import shown_value
from reports.tables import csv_bytes
from utils import printable

MOST_OUTPUTS: Final = 1_000_000  # logits: beyond, only the accuracy is compared, as resampling would take minutes


def section(subject: Subject) -> Section | None:
    """The part of the report."""
    other = subject.options.against
    if other is None:
        return None
    name = short(other.folder.path.resolve().name, 40)
    theirs = rightly(other.logits, subject.labels)
    differences = dict(_differences(subject, other, theirs))
    rows = [
        (metric, f"{difference.value:+.4f}", _interval(difference), _verdict(difference))
        for metric, difference in differences.items()
    ]
    numbers = [(metric, found.value, *found.interval, found.pairs) for metric, found in differences.items()]
    files = {"against.csv": csv_bytes(["metric", "difference", "low", "high", "images"], numbers)}
    text = (
        f"This experiment minus {name}, on the same {len(theirs):,} images. The interval says what other images might "
        "show; another training of either could differ by more."
    )
    header = ["metric", "difference", "95% interval", "verdict"]
    parts = [paragraph(text), table(header, rows, label=f"Differences to {name}")]
    for place, title, mine in (
        ("gained", f"Right here, wrong in {name}", subject.right & ~theirs),
        ("lost", f"Wrong here, right in {name}", theirs & ~subject.right),
    ):
        parts.append(_images(subject, place, title, mine, files))
    changed = list(differing_params(subject.params, other.params))
    parts.append(tag("h3", "Parameters that differ"))
    columns = ["parameter", "here", name]
    parts.append(table(columns, changed, label="Parameters that differ") if changed else paragraph("None differs."))
    return Section("against", f"Against {name}", join(*parts), files)


def differing_params(ours: Params, theirs: Params) -> Iterator[tuple[str, str, str]]:
    """Name and both values of each parameter in force that differs."""
    for name in Params.model_fields:
        if name != "about" and getattr(ours, name) != getattr(theirs, name):
            yield name, shown_value(getattr(ours, name)), shown_value(getattr(theirs, name))


def _differences(subject: Subject, other: Other, theirs: np.ndarray) -> Iterator[tuple[str, Difference]]:
    yield "accuracy", over_images(theirs, subject.right)
    if subject.logits.size <= MOST_OUTPUTS:
        for name in subject.values:
            if name not in ("loss", "accuracy"):
                yield name, over_resampled_images(metrics[name], other.logits, subject.logits, subject.labels)


def _interval(difference: Difference) -> str:
    low, high = difference.interval
    return "undefined" if math.isnan(low) else f"{low:+.4f} to {high:+.4f}"


def _verdict(difference: Difference) -> str:
    if not difference.separable:
        return "not separable"
    return "better here" if difference.value > 0 else "worse here"


def _images(subject: Subject, place: str, title: str, mine: np.ndarray, files: dict[str, Any]) -> Html:
    """A sheet of the images that only one of the two got right, the surest first; its PNG goes to the files."""
    found = mine.nonzero()[0]
    found = found[np.argsort(-subject.confidence[found], kind="stable")]
    heading = tag("h3", f"{title}: {len(found):,}")
    if not len(found):
        return join(heading, paragraph("There is none."))
    some, shown = found[: subject.options.top_k].tolist(), gallery(subject)
    files[f"{place}.png"] = sheet_figure(subject, some, printable(title))
    files[f"{place}.csv"] = csv_bytes(["path"], ([subject.paths[index]] for index in found))
    body = sheet(subject, some, place, lambda index: links(subject, shown, index, place))
    more = paragraph(f"{place}.csv has all.") if len(found) > len(some) else Html()
    return join(heading, details(f"The {len(some)} surest" if more else "Images", body), more)
