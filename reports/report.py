"""The report of an experiment: its parts in their order, and the page that they make."""

from collections.abc import Callable
from typing import Final

from config import run_folder
from reports import (
    against_part,
    attribution_part,
    calibration_part,
    classes_part,
    confusion_part,
    curves_part,
    labels_part,
    metrics_part,
    mistakes_part,
    robustness_part,
    slices_part,
    summary,
)
from reports.page import Section, page
from reports.subject import Subject
from utils import printable

# The parts in the order of the page; how one is added is told in reports/page.py.
PARTS: Final[dict[str, Callable[[Subject], Section | None]]] = {
    "summary": summary.section,
    "metrics": metrics_part.section,
    "against": against_part.section,
    "classes": classes_part.section,
    "confusion": confusion_part.section,
    "calibration": calibration_part.section,
    "mistakes": mistakes_part.section,
    "labels": labels_part.section,
    "attribution": attribution_part.section,
    "slices": slices_part.section,
    "curves": curves_part.section,
    "robustness": robustness_part.section,
}


def sections(subject: Subject) -> list[Section]:
    """The parts that were asked for."""
    return [section for part in PARTS.values() if (section := part(subject)) is not None]


def write_report(subject: Subject) -> None:
    """Writes the page and the files of its parts into the folder of the question.

    The same page is written as report/index.html, which is that of the latest report.
    """
    folder, where, parts = subject.folder, subject.question.report, sections(subject)
    title = printable(folder.path.resolve().name)
    files = {f"{where}/{name}": data for part in parts for name, data in part.files.items()}
    files[f"{where}/{run_folder.REPORT_PAGE}"] = page(title, str(subject.question), parts)
    beside = f"{where.removeprefix(run_folder.REPORT + '/')}/"
    files[f"{run_folder.REPORT}/{run_folder.REPORT_PAGE}"] = page(title, str(subject.question), parts, beside)
    folder.write_all(files)
