"""Accuracy on parts of the images, as a part of the report."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from model.metric import accuracy
from reports.page import Html, Section, details, join, paragraph, picture, short, table, tag
from reports.slices import FEWEST, Slicing, by_column, by_members, by_number, read_columns, slices_csv, slices_figure
from reports.subject import Subject

MOST_DRAWN: Final = 12  # slices of one thing in the figure: of more, the lowest
MOST_THINGS: Final = 10  # in the figure
LUMA: Final = np.array([0.299, 0.587, 0.114])  # ITU-R 601


def section(subject: Subject) -> Section:
    """The part of the report."""
    slicings = list(_slicings(subject))
    drawn = {}
    for slicing in slicings[:MOST_THINGS]:
        enough = sorted((part for part in slicing.slices if part.enough), key=lambda part: part.accuracy)[:MOST_DRAWN]
        if len(enough) > 1:
            drawn[slicing.by] = [part for part in slicing.slices if part in enough]
    what = "Whether the whole image is right" if subject.multi_label else "Accuracy"
    text = f"{what} on parts of the images. Of fewer than {FEWEST} images no accuracy is shown: it would say little."
    files, figure = {"slices.csv": slices_csv(slicings)}, Html()
    if drawn:
        files["slices.png"] = slices_figure(drawn, accuracy(subject.logits, subject.labels))
        alt = f"Accuracy with intervals by {', '.join(short(by, 30) for by in drawn)}; the tables have the numbers"
        figure = picture(files["slices.png"], alt)
    parts = [_table(slicing) for slicing in slicings if slicing.slices]
    if left_out := ", ".join(short(slicing.by, 40) for slicing in slicings if not slicing.slices):
        parts.append(paragraph(f"Left out, as no value is that of {FEWEST} images or more: {left_out}."))
    return Section("slices", "Slices", join(paragraph(text), figure, *parts), files)


def brightness(subject: Subject) -> np.ndarray:
    """float64 (N,): mean luminance, 0 to 255, of each image as the net is given it."""
    values = []
    indices = np.arange(len(subject.paths))
    for canvas, sizes in subject.loader.store.batches([indices[i : i + 64] for i in range(0, len(indices), 64)]):
        for image, (height, width) in zip(canvas.numpy(), sizes.tolist(), strict=True):
            channels = image[:height, :width].mean(axis=(0, 1), dtype=np.float64)
            values.append(float(channels @ LUMA) if len(channels) == 3 else float(channels[0]))
    return np.array(values)


def _slicings(subject: Subject) -> Iterator[Slicing]:
    right, labels = subject.right, subject.labels
    truth = labels > 0.5 if subject.multi_label else labels[:, None] == np.arange(len(subject.classes))
    yield by_members("class", right, zip(subject.classes, truth.T, strict=True))
    if (sizes := subject.loader.split.sizes) is not None:
        yield by_number("shorter side, pixels", right, sizes.min(axis=1).astype(np.float64))
    yield by_number("brightness, 0 to 255", right, brightness(subject).round(1))
    if subject.options.slices is not None:
        for name, cells in read_columns(subject.options.slices, subject.paths).items():
            yield by_column(name, right, cells)


def _table(slicing: Slicing) -> Html:
    heading, name = tag("h3", f"By {short(slicing.by, 60)}"), short(slicing.by, 40)
    few = [part for part in slicing.slices if not part.enough]
    if len(slicing.slices) == 1 and not slicing.note:
        return join(heading, paragraph(f"All images are alike: {short(slicing.slices[0].name)}."))
    rows = [
        (
            short(part.name, 40),
            part.images,
            f"{part.accuracy:.4f}" if part.enough else "too few",
            f"{part.interval.low:.4f} to {part.interval.high:.4f}" if part.enough else "",
        )
        for part in slicing.slices
    ]
    body = table([name, "images", "accuracy", "95% interval"], rows, label=f"Accuracy by {name}")
    lowest = min((part for part in slicing.slices if part.enough), key=lambda part: part.accuracy, default=None)
    told = f"Lowest: {short(lowest.name, 40)}, {lowest.accuracy:.4f} of {lowest.images:,} images. " if lowest else ""
    counted = f"{len(few):,} of {len(slicing.slices):,} have fewer than {FEWEST} images. " if few else ""
    text = paragraph(f"{told}{counted}{slicing.note}")
    return join(heading, text, body if len(rows) <= 12 else details(f"All {len(rows):,}", body))
