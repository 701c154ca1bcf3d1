"""The most confident mistakes and the highest losses as contact sheets, and the table of misclassified images."""

from collections.abc import Sequence

from reports.gallery import Gallery, gallery, links
from reports.page import Html, Section, details, join, paragraph, short, table, tag
from reports.sheets import sheet, sheet_figure
from reports.subject import Subject


def section(subject: Subject) -> Section:
    """The part of the report."""
    shown = gallery(subject)
    files, parts = {}, []
    for place, title, indices in (
        ("mistake", "Most confident mistakes", shown.mistakes),
        ("loss", "Highest losses", shown.losses),
    ):
        parts.append(tag("h3", title))
        parts.append(_sheet(subject, shown, place, indices))
        if indices:
            files[f"{'mistakes' if place == 'mistake' else 'losses'}.png"] = sheet_figure(subject, indices, title)
    wrong = int((~subject.right).sum())
    count = f"{wrong:,} of {len(subject.right):,} images are wrong"
    first = (
        f"; here are the {len(shown.rows)} most confident, misclassified.csv has all" if wrong > len(shown.rows) else ""
    )
    parts += [tag("h3", "Misclassified images"), paragraph(f"{count}{first}.")]
    if shown.rows:
        parts.append(details("Table of misclassified images", _table(subject, shown)))
    return Section("mistakes", "Mistakes", join(*parts), files, also=("misclassified.csv",))


def _sheet(subject: Subject, shown: Gallery, place: str, indices: Sequence[int]) -> Html:
    if not indices:
        return paragraph("There is none.")
    return sheet(subject, indices, place, lambda index: links(subject, shown, index, place))


def _table(subject: Subject, shown: Gallery) -> Html:
    rows = [
        (
            short(subject.paths[index]),
            short(subject.named(subject.labels[index]), 40),
            short(subject.named(subject.predicted[index]), 40),
            f"{subject.confidence[index]:.4f}",
            f"{subject.losses[index]:.4g}",
            links(subject, shown, index, "row"),
        )
        for index in shown.rows
    ]
    header = ["image", "true", "predicted", "confidence", "loss", "shown"]
    return table(header, rows, label="Misclassified images", ids=[f"row-{index}" for index in shown.rows])
