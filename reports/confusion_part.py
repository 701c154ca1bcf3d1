"""The confusion matrix as a part of the report: each cell leads to its images."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from reports.confusion import LARGEST_WITH_NAMES, confusion_matrix
from reports.gallery import MATRIX_CLASSES, Cell, Gallery, cell_target, gallery, links
from reports.page import Html, Section, details, join, link, paragraph, picture, scrolled, short, table, tag
from reports.sheets import sheet
from reports.subject import Subject

CELL_IMAGES: Final = 6  # shown of a cell
CELL_NAMES: Final = 3  # named of a cell when BYTES are used up
BYTES: Final = 400_000  # of markup, for the images of all cells together
HEATS: Final = (0.01, 0.05, 0.15, 0.35, 0.65)  # shares of the true class from which a cell is darker


def section(subject: Subject) -> Section:
    """The part of the report."""
    if subject.multi_label:
        text = "A confusion matrix counts one class per image, and these images may have several; see the classes."
        return Section("confusion", "Confusion", paragraph(text))
    matrix = confusion_matrix(subject.predicted, subject.labels, len(subject.classes))
    shown = gallery(subject)
    if len(subject.classes) <= MATRIX_CLASSES:
        what = "Rows are true classes, columns predicted ones. Press a number to see its images."
        first = join(paragraph(what), _matrix(subject, matrix))
    else:
        first = _pairs(subject, matrix, [cell for cell in shown.cells if cell[0] != cell[1]])
    groups = details("Images of each cell, the most confident mistakes first", *_groups(subject, shown))
    also = ("confusion_matrix.csv", "confusion_matrix.png")
    return Section("confusion", "Confusion", join(first, groups) if shown.cells else first, also=also)


def _matrix(subject: Subject, matrix: np.ndarray) -> Html:
    names = [short(name, 24) for name in subject.classes]
    columns = (tag("th", tag("span", name), scope="col") for name in names)
    head = tag("thead", tag("tr", tag("th", "true \\ predicted"), *columns))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    rows = (
        tag("tr", tag("th", name, scope="row"), *(_cell((i, j), matrix, shares, names) for j in range(len(names))))
        for i, name in enumerate(names)
    )
    return scrolled(tag("table", head, tag("tbody", *rows), class_="matrix"), "Confusion matrix")


def _cell(cell: Cell, matrix: np.ndarray, shares: np.ndarray, names: Sequence[str]) -> Html:
    images = int(matrix[cell])
    if not images:
        return tag("td")
    heat = sum(shares[cell] >= step for step in HEATS)
    right = cell[0] == cell[1]
    told = f"{names[cell[0]]} {'rightly predicted' if right else f'taken for {names[cell[1]]}'}: {images} images"
    anchor = tag("a", f"{images:,}", href=cell_target(cell), aria_label=told)
    return tag("td", anchor, class_=" ".join([f"heat{heat}"] * bool(heat) + ["right"] * right) or None)


def _pairs(subject: Subject, matrix: np.ndarray, cells: Sequence[Cell]) -> Html:
    """The most confused pairs, where there are too many classes for a matrix that can be read."""
    if not cells:
        return paragraph("No image is taken for one of another class.")
    rows = [
        (
            short(subject.classes[true], 40),
            short(subject.classes[predicted], 40),
            link(cell_target((true, predicted)), f"{matrix[true, predicted]:,}"),
            f"{matrix[true, predicted] / matrix[true].sum():.1%}",
        )
        for true, predicted in cells
    ]
    confused = int((matrix > 0).sum() - (np.diag(matrix) > 0).sum())
    what = f"The {len(rows)} most confused of {confused:,} pairs that occur. Press a number to see its images."
    header = ["true", "predicted", "images", "share of the true class"]
    pairs = table(header, rows, label="Most confused pairs")
    if len(subject.classes) > LARGEST_WITH_NAMES:
        return join(paragraph(what), pairs)
    figure = subject.folder.read(f"{subject.question.report}/confusion_matrix.png")
    alt = f"Confusion matrix of {len(subject.classes)} classes; the table has its most confused pairs"
    return join(picture(figure, alt), paragraph(what), pairs)


def _groups(subject: Subject, shown: Gallery) -> list[Html]:
    """The images of each cell: with pictures as far as BYTES go, then by name."""
    groups, left = [], BYTES
    for cell, members in shown.cells.items():
        if left > 0:
            some = members[:CELL_IMAGES]
            body = sheet(subject, some, "in-cell", lambda index: links(subject, shown, index, "cell"), left)
            left -= len(body)
        else:
            some = members[:CELL_NAMES]
            body = paragraph(", ".join(short(subject.paths[index]) for index in some))
        rest = len(members) - len(some)
        more = paragraph(f"and {rest:,} more") if rest else Html()
        groups.append(details(_title(subject, cell, len(members)), body, more, id_=cell_target(cell)[1:]))
    return groups


def _title(subject: Subject, cell: Cell, images: int) -> str:
    true, predicted = (short(subject.classes[index], 40) for index in cell)
    count = f"{images:,} image{'s' * (images != 1)}"
    return (
        f"{true}, rightly: {count}, the least sure first"
        if cell[0] == cell[1]
        else f"{true}, taken for {predicted}: {count}"
    )
