"""Which images the report shows where, so that each place can lead to the others."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from reports.misclassified import mistakes
from reports.page import Html, join, link
from reports.subject import Subject

MATRIX_CLASSES: Final = 25  # up to so many, every cell of the confusion matrix is shown; beyond, the fullest ones
PAIRS: Final = 50
ROWS: Final = 200  # of the table of misclassified images

Cell = tuple[int, int]  # true class, predicted class


@dataclass(frozen=True)
class Gallery:
    """Images by the place that shows them, each in the order of that place.

    Args:
        cells: of the confusion matrix; the most confident mistakes and the least confident right ones come first.
        mistakes: the sheet of the most confident mistakes.
        losses: the sheet of the highest losses.
        rows: the table of misclassified images.
    """

    cells: Mapping[Cell, tuple[int, ...]]
    mistakes: tuple[int, ...]
    losses: tuple[int, ...]
    rows: tuple[int, ...]


def gallery(subject: Subject) -> Gallery:
    """What is shown where."""
    wrong = tuple(map(int, mistakes(subject.logits, subject.labels)))
    losses = np.argsort(-np.nan_to_num(subject.losses, nan=np.inf), kind="stable")[: subject.options.top_k]
    return Gallery(_cells(subject), wrong[: subject.options.top_k], tuple(map(int, losses)), wrong[:ROWS])


def _cells(subject: Subject) -> dict[Cell, tuple[int, ...]]:
    """The cells that are shown, the fullest first, those of mistakes before those of right images."""
    if subject.multi_label:
        return {}
    surest_first = np.argsort(-subject.confidence, kind="stable")
    members: dict[Cell, list[int]] = {}
    for index in surest_first.tolist():
        members.setdefault((int(subject.labels[index]), int(subject.predicted[index])), []).append(index)
    order = sorted(members, key=lambda cell: (cell[0] == cell[1], -len(members[cell]), cell))
    if len(subject.classes) > MATRIX_CLASSES:
        order = [cell for cell in order if cell[0] != cell[1]][:PAIRS]
    return {cell: tuple(members[cell][:: -1 if cell[0] == cell[1] else 1]) for cell in order}


def links(subject: Subject, shown: Gallery, index: int, here: str) -> Html:
    """Links to the other places where an image is shown, or images like it.

    Args:
        subject: the report's.
        shown: what is shown where.
        index: of the image.
        here: the place that is not to be linked to: cell, mistake, loss or row.
    """
    return join(
        *(join(link(target, text), " ") for place, target, text in _places(subject, shown, index) if place != here)
    )


def _places(subject: Subject, shown: Gallery, index: int) -> Iterator[tuple[str, str, str]]:
    if not subject.multi_label and (cell := cell_of(subject, index)) in shown.cells:
        yield "cell", cell_target(cell), "cell"
    if index in shown.mistakes:
        yield "mistake", f"#mistake-{index}", "mistakes"
    if index in shown.losses:
        yield "loss", f"#loss-{index}", "losses"
    if index in shown.rows:
        yield "row", f"#row-{index}", "table"


def cell_of(subject: Subject, index: int) -> Cell:
    """The cell of the confusion matrix that counts an image."""
    return int(subject.labels[index]), int(subject.predicted[index])


def cell_target(cell: Cell) -> str:
    """What a link to a cell's images leads to."""
    return f"#cell-{cell[0]}-{cell[1]}"
