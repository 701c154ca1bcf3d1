"""Where the net looks, as a part of the report: maps of the most confident mistakes and of some right answers."""

import io
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from images.augment import normalise
from images.keyed_random import permutation
from images.read import Pixels
from reports.attribution import Attribution, attribute
from reports.faithfulness import Faithfulness, faithfulness
from reports.intervals import Interval
from reports.misclassified import mistakes
from reports.overlay import contact_sheet, strip
from reports.page import Html, Section, data_uri, join, paragraph, short, table, tag
from reports.subject import Subject
from reports.tables import csv_bytes

Array = np.ndarray[Any, Any]

OFF: Final = "off"
RIGHT: Final = 1 / 3  # share of the images that the net gets right, where there are mistakes enough
LAYERLESS: Final = "the inside of the net was not looked at"
ABOUT: Final = {
    "grad_cam": "Grad-CAM weights the last feature map by what each feature adds to the class",
    "eigen_cam": "EigenCAM shows the strongest pattern of the last feature map, whatever the class",
    "occlusion": "Occlusion covers a patch of the image at a time and looks how far the class's logit falls",
}
BYTES: Final = 350_000  # of markup that the maps may take; the PNG has them all
_FILE: Final = "attribution"


class Looks(NamedTuple):
    """The images that are explained, M of them.

    Attributes:
        indices: positions in the split.
        pixels: (M, S, S, C) uint8 as the net sees them.
        images: (M, C, S, S) float32 as the net takes them.
        targets: (M,) the class explained first: the predicted one.
        others: (M,) the class explained beside it: the true one; the same where there is none.
    """

    indices: Array
    pixels: Pixels
    images: Tensor
    targets: Array
    others: Array


def section(subject: Subject) -> Section | None:
    """The part of the report."""
    if subject.options.attribution == OFF:
        return None
    looks = chosen(subject)
    first = _attribute(subject, looks.images, looks.targets)
    two = np.flatnonzero(looks.targets != looks.others)
    second = _attribute(subject, looks.images[two], looks.others[two]).maps if len(two) else ()
    heats = [[heat] for heat in first.maps]
    for number, heat in zip(two, second, strict=True):
        heats[number].append(heat)
    checked = faithfulness(
        subject.net, looks.images, _on(looks.images, looks.targets), first.maps, first.cells, subject.params.seed,
        subject.multi_label, subject.machine.autocast,
    )  # fmt: skip
    strips = [_strip(subject, looks, number, maps) for number, maps in enumerate(heats)]
    told = [_told(subject, looks, number) for number in range(len(strips))]
    captions = [f"{short(subject.paths[index])}\n{what}" for index, what in zip(looks.indices, told, strict=True)]
    sheet = contact_sheet(strips, captions, f"{subject.folder.path.name}: where the net looks, {subject.question}")
    what = (
        f"{ABOUT[first.method]} ({_layer(first)}). On the left the image as the net sees it, then where it looks for "
        "the class that it predicts and, for a mistake, for the true one. The more yellow, the more."
    )
    body = join(paragraph(what), _check(checked), _cards(subject, looks, strips, told))
    files = {f"{_FILE}.png": sheet, f"{_FILE}.csv": _csv(subject, looks, first, checked)}
    return Section(_FILE, "Where the net looks", body, files)


def chosen(subject: Subject) -> Looks:
    """The most confident mistakes, and some right answers drawn by the experiment's seed."""
    count = subject.options.top_k
    order = permutation(subject.params.seed, 0, len(subject.labels), _FILE)
    right = order[subject.right[order]]
    wrong = mistakes(subject.logits, subject.labels)[: count - min(len(right), max(1, round(count * RIGHT)))]
    indices = np.concatenate([wrong, right[: count - len(wrong)]])
    canvas, _ = subject.loader.store.gather(indices)
    images = normalise(canvas.to(subject.loader.device).permute(0, 3, 1, 2), subject.loader.mean, subject.loader.std)
    targets, others = _classes(subject, indices)
    return Looks(indices, canvas.numpy(), images, targets, others)


def _classes(subject: Subject, indices: Array) -> tuple[Array, Array]:
    """The predicted and the true class; of several per image the one most wrong, or the surest where all are right."""
    if not subject.multi_label:
        return subject.predicted[indices], subject.labels[indices]
    chances, there = subject.probabilities[indices], subject.labels[indices] > 0.5
    wrong = np.where(there, 1 - chances, chances).argmax(axis=1)
    targets = np.where(subject.right[indices], chances.argmax(axis=1), wrong)
    return targets, targets


def _attribute(subject: Subject, images: Tensor, classes: Array) -> Attribution:
    return attribute(subject.net, images, _on(images, classes), subject.options.attribution, subject.machine.autocast)


def _on(images: Tensor, classes: Array) -> Tensor:
    return torch.from_numpy(np.asarray(classes, np.int64)).to(images.device)


def _strip(subject: Subject, looks: Looks, number: int, heats: Sequence[Array]) -> Pixels:
    sizes, proportion = subject.loader.split.sizes, 1.0
    if subject.params.resize == "squash" and sizes is not None:
        height, width = sizes[looks.indices[number]]
        proportion = float(width / height)
    return strip(looks.pixels[number], heats, proportion)


def _told(subject: Subject, looks: Looks, number: int) -> str:
    """What the net says of an image, and what is true."""
    index, target = looks.indices[number], looks.targets[number]
    name, sure = short(subject.classes[target], 24), f"{subject.probabilities[index, target]:.0%}"
    if subject.multi_label:
        return f"{name} {sure}, {'is' if subject.labels[index, target] > 0.5 else 'is not'} there"
    true = short(subject.classes[looks.others[number]], 24)
    return f"{name} {sure}, rightly" if subject.right[index] else f"{name} {sure}, is {true}"


def _layer(found: Attribution) -> str:
    return f"here that of {found.layer}, {found.cells} by {found.cells} cells" if found.layer else LAYERLESS


def _check(checked: Faithfulness) -> Html:
    """The deletion and insertion scores against random maps."""
    means = {"deletion": (checked.deletion, checked.random_deletion),
             "insertion": (checked.insertion, checked.random_insertion)}  # fmt: skip
    rows = [
        (f"{name}, {'less' if name == 'deletion' else 'more'} is better", f"{ours.mean():.4f}", f"{random.mean():.4f}",
         f"{gain:+.4f}", _ends(interval))
        for (name, (ours, random)), (gain, interval) in zip(means.items(), checked.gains.values(), strict=True)
    ]  # fmt: skip
    how = (
        "Checked by covering the image in the order of the map, and by uncovering a blurred one in that order: the "
        "mean probability of the class on the way, against the order of random maps as coarse."
    )
    header = ["measure", "these maps", "random maps", "better by", "95% interval"]
    scores = table(header, rows, label="Check of the maps", sortable=False)
    return join(paragraph(checked.verdict, " ", how), scores)


def _ends(interval: Interval) -> str:
    return "undefined" if np.isnan(interval.low) else f"{interval.low:+.4f} to {interval.high:+.4f}"


def _cards(subject: Subject, looks: Looks, strips: Sequence[Pixels], told: Sequence[str]) -> Html:
    cards: list[Html] = []
    for index, pixels, what in zip(looks.indices, strips, told, strict=True):
        if sum(map(len, cards)) > BYTES:
            break
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
        name = short(subject.paths[index])
        shown = tag("img", src=data_uri(buffer.getvalue()), alt=f"{name}: where the net looks; {what}")
        cards.append(tag("li", shown, tag("span", what), tag("span", name, class_="note"), id_=f"{_FILE}-{index}"))
    rest = len(strips) - len(cards)
    more = paragraph(f"{_FILE}.png has {rest:,} more.") if rest else Html()
    return join(tag("ul", *cards, class_="sheet strips"), more)


def _csv(subject: Subject, looks: Looks, found: Attribution, checked: Faithfulness) -> bytes:
    header = ["path", "true", "predicted", "explained", "method", "layer",
              "deletion", "insertion", "random deletion", "random insertion"]  # fmt: skip
    areas = np.stack([checked.deletion, checked.insertion, checked.random_deletion, checked.random_insertion], axis=1)
    rows = (
        [subject.paths[index], subject.named(subject.labels[index]), subject.named(subject.predicted[index]),
         subject.classes[target], found.method, found.layer, *np.round(row, 6).tolist()]
        for index, target, row in zip(looks.indices, looks.targets, areas, strict=True)
    )  # fmt: skip
    return csv_bytes(header, rows)
