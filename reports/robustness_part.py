"""Robustness against corrupted images, as a part of the report."""

import math

from reports.corruptions import COMMON, CORRUPTIONS, SEVERITIES
from reports.page import Section, join, paragraph, picture, table
from reports.robustness import Point, Robustness, conditions, robustness, robustness_csv, robustness_figure, summary
from reports.subject import Subject
from utils import log, printable, to_json


def section(subject: Subject) -> Section | None:
    """The part of the report."""
    if not subject.options.robustness:
        return None
    images, ways = min(len(subject.paths), subject.options.robustness), len(conditions(subject.params.channels))
    what = f"{images:,} image{'s' * (images != 1)}"
    log.info("corrupting %s in %d ways; --robustness 0 leaves it out", what, ways)
    result = robustness(
        subject.net, subject.loader, subject.data.root, subject.params, subject.machine.autocast,
        subject.options.robustness,
    )  # fmt: skip
    title = f"{printable(subject.folder.path.name)}: {subject.question}"
    figure = robustness_figure(result, title)
    body = join(
        paragraph(_told(result)),
        picture(figure, f"{result.metric} against severity for {len(result.kinds)} kinds of corruption", wide=True),
        _table(result),
        paragraph(
            "Area: that under the curve, severities 0 to 5 being 0 to 1, so that 1 is a net that is always right. The "
            "corruptions are in the style of ImageNet-C (arXiv 1903.12261), not those files: compare these numbers "
            "with each other, not with published ones."
        ),
    )
    files = {
        "robustness.png": figure,
        "robustness.csv": robustness_csv(result),
        "robustness.json": to_json(summary(result)),
    }
    return Section("robustness", "Robustness", body, files)


def _told(result: Robustness) -> str:
    low, high = result.clean.interval
    ends = "no interval" if math.isnan(low) else f"{low:.4f} to {high:.4f}"
    left = "" if math.isnan(result.relative) else f", {result.relative:.1%} of that,"
    return (
        f"On {result.images:,} images, of each class its share: {result.metric} {result.clean.value:.4f} "
        f"({ends}) as they are, and {result.corrupted:.4f}{left} on average over the {len(COMMON)} "
        f"common corruptions in {len(SEVERITIES)} severities."
    )


def _table(result: Robustness) -> str:
    header = ["kind", "area", *(f"severity {severity}" for severity in SEVERITIES), "level is", "at 1", "at 5"]
    rows = []
    for kind in sorted(result.kinds, key=lambda kind: (math.isnan(result.area(kind)), result.area(kind))):
        curve, levels = result.curve(kind), CORRUPTIONS[kind].levels
        shown = (_shown(curve[severity]) for severity in SEVERITIES)
        rows.append(
            [kind, f"{result.area(kind):.4f}", *shown, CORRUPTIONS[kind].parameter, f"{levels[0]:g}", f"{levels[-1]:g}"]
        )
    return table(header, rows, label="Robustness by kind of corruption, the worst first")


def _shown(point: Point) -> str:
    return "undefined" if math.isnan(point.value) else f"{point.value:.4f}"
