"""A data folder as one page: what is in it, how it looks, what is there twice, and which files to look at."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from images.appearance import odd
from images.check import NAMED, Checked, size_rows
from images.folder import scan
from images.read import read_image
from reports.data_figures import classes_figure, looks_figure, sizes_figure
from reports.page import Html, Section, data_uri, details, join, page, paragraph, picture, short, table, tag
from utils import UserError, printable, write_atomic

SIDE: Final = 96  # pixels of a thumbnail
MANY: Final = 40  # classes, beyond which each is shown by one image, and the table of them is folded
MOST_ROWS: Final = 2000  # of the table of classes
SAMPLES, ALL_SAMPLES = 7, 300  # images shown of a class, of all classes
SMALL, SMALL_FROM = 48, 100  # pixels of a thumbnail, from so many classes on
GROUPS, MEMBERS = 60, 12  # of images that show the same
SHOWN: Final = 12  # of files that look odd in one way
BYTES: Final = 900_000  # of markup for each part that shows images; when they are used up, images are only named

FILE: Final = "report.html"  # in the data folder, unless another is named

Counts = Mapping[str, Mapping[str, int]]


class Pictures:
    """Cards of images, as long as there are bytes left for them.

    Args:
        found: the data folder.
        side: pixels of a thumbnail.
    """

    def __init__(self, found: Checked, side: int = SIDE) -> None:
        self.found, self.side, self.left = found, side, BYTES

    def cards(self, paths: Iterable[str], notes: Mapping[str, str] | None = None) -> Html:
        """A list of cards: the picture, a note and the file's name; without notes the name is only read out."""
        return tag("ul", *(self._card(path, notes) for path in paths), class_="sheet")

    def _card(self, path: str, notes: Mapping[str, str] | None) -> Html:
        shown = self._image(path) if self.left > 0 else Html()
        text = () if notes is None else (tag("span", notes[path]), tag("span", short(path), class_="note"))
        card = tag("li", shown, *(text or ((tag("span", short(path)),) if not shown else ())))
        self.left -= len(card)
        return card

    def _image(self, path: str) -> Html:
        from images.view import resize  # torch starts here
        from reports.thumbnail import thumbnail

        pixels = read_image(self.found.root / path, max_megapixels=np.inf)  # it was read before
        longest = max(pixels.shape[:2])
        if longest > self.side:
            pixels = resize(pixels, *(max(1, round(side * self.side / longest)) for side in pixels.shape[:2]))
        tiny = "tiny" if longest <= SIDE // 2 else None
        return tag("img", src=data_uri(thumbnail(pixels)), alt=short(path), class_=tiny, loading="lazy")


def write_data_report(found: Checked, target: Path) -> str:
    """Writes the page, into the data folder when the target is the empty path; returns where it is."""
    target = found.root / FILE if target == Path() else target
    write_atomic(target, data_report(found))
    return printable(str(target))


def data_report(found: Checked, seed: int = 0) -> bytes:
    """The page.

    Args:
        found: what the check found.
        seed: of the choice of samples.
    """
    members = _members(found)
    classes = sorted({name for of in members.values() for name in of} | _folders(found))
    counts = {split: {name: len(paths) for name, paths in of.items()} for split, of in members.items()}
    sections = (
        _summary(found, classes),
        _classes(found, classes, counts),
        *_sizes(found),
        _doubles(found),
        _samples(found, classes, members, seed),
        _odd(found),
    )
    title = printable(found.root.resolve().name)
    return page(title, f"data folder, {len(found.headers):,} images of {len(classes):,} classes", sections)


def _members(found: Checked) -> dict[str, dict[str, list[str]]]:
    """The readable images by split and class; of multi-label data an image is in each of its classes."""
    members: dict[str, dict[str, list[str]]] = {split: {} for split in found.counts}
    if any("" in of for of in found.counts.values()):
        try:
            folder = scan(found.root, list(found.counts))
        except UserError:  # the findings name it
            return members
        for part in folder.splits.values():
            for label, column in zip(folder.classes, part.targets.T > 0.5, strict=True):
                chosen = [path for path, there in zip(part.paths, column, strict=True) if there]
                members[part.name][label] = [path for path in chosen if path in found.headers]
        return members
    for path in found.headers:
        members[path.partition("/")[0]].setdefault(found.labels[path], []).append(path)
    return members


def _folders(found: Checked) -> set[str]:
    """Names of class folders, also those without a readable image."""
    return {name for of in found.counts.values() for name in of} - {""}


# --- the parts -------------------------------------------------------------------------------------------------------


def _summary(found: Checked, classes: Sequence[str]) -> Section:
    findings = found.findings()
    total = sum(map(len, findings.values()))
    tiles = [("classes", f"{len(classes):,}"), *((split, f"{of.total():,}") for split, of in found.counts.items())]
    tiles.append(("findings", f"{total:,}"))
    body = [tag("ul", *(tag("li", name, tag("strong", value)) for name, value in tiles), class_="tiles")]
    body.append(paragraph("Nothing to mend was found." if not total else "What should be mended, the gravest first:"))
    for kind, lines in findings.items():
        items = [tag("li", short(line, 300)) for line in lines[:NAMED]]
        rest = len(lines) - NAMED
        items += [tag("li", f"… and {rest:,} more like it")] if rest > 0 else []
        body += [tag("h3", f"{kind[0].upper()}{kind[1:]}: {len(lines):,}"), tag("ul", *items)]
    body += [paragraph(short(note, 300), ".") for note in found.notes]
    return Section("summary", "Summary", join(*body))


def _classes(found: Checked, classes: Sequence[str], counts: Counts) -> Section:
    if not classes:
        return Section("classes", "Classes", paragraph("No class could be told: see the findings."))
    rows: list[list[str | int]] = [
        [short(name), *(of.get(name, 0) for of in counts.values())] for name in islice(classes, MOST_ROWS)
    ]
    numbers = table(["class", *counts], rows, label="Images by class and split")
    body = [picture(classes_figure(counts, classes), "Images by class and split; the table has the numbers", wide=True)]
    train = [counts.get("train", {}).get(name, 0) for name in classes]
    if min(train) and max(train) > 3 * min(train):
        body.append(
            paragraph(
                f"The largest class has {max(train) / min(train):.1f} times the training images of the smallest: look "
                "at balanced_accuracy or f1 beside the accuracy, and see class_weights and sampler in docs/params.md."
            )
        )
    several = any("" in of for of in found.counts.values())
    body += [paragraph("An image may be of several classes, and counts in each.")] if several else []
    body.append(details("Table of classes", numbers) if len(classes) > MANY else numbers)
    return Section("classes", "Classes", join(*body))


def _sizes(found: Checked) -> Iterator[Section]:
    if not found.headers:
        return
    header = ["split", "width", "height", "modes", "formats", "turned by EXIF"]
    body = [table(header, list(size_rows(found)), label="Sizes, modes and formats", sortable=False)]
    if len({(h.width, h.height) for h in found.headers.values()}) > 1:
        body.append(picture(sizes_figure(found.headers), "Width against height, and the ratio of both", wide=True))
    yield Section("sizes", "Sizes and formats", join(*body))
    note = (
        "Mean and standard deviation of the grey values, 0 to 255, and how much of the latter is fine detail. The "
        "splits should look alike here; where they do not, test measures something that train does not teach."
    )
    figure = picture(looks_figure(found.looks), "How brightness, contrast and detail are spread by split", wide=True)
    yield Section("looks", "Brightness, contrast, detail", join(paragraph(note), figure))


def _doubles(found: Checked) -> Section:
    kinds = {kind: groups for kind, groups in found.doubles().items() if groups}
    if not kinds:
        return Section("doubles", "Images that are there twice", paragraph("None was found."))
    pictures, left, body = Pictures(found), GROUPS, []
    for kind, groups in kinds.items():
        body.append(tag("h3", f"{kind[0].upper()}{kind[1:]}: {len(groups):,} group{'s' * (len(groups) > 1)}"))
        for group in groups[:left]:
            body.append(pictures.cards(group[:MEMBERS], {path: _place(found, path) for path in group}))
            if len(group) > MEMBERS:
                body.append(paragraph(f"… and {len(group) - MEMBERS:,} more images of this group."))
        if len(groups) > left:
            body.append(paragraph(f"… and {len(groups) - left:,} more groups."))
        left = max(0, left - len(groups))
    return Section("doubles", "Images that are there twice", join(*body))


def _place(found: Checked, path: str) -> str:
    """The split, and the class where an image has one."""
    return short(", ".join([path.partition("/")[0], *([found.labels[path]] if path in found.labels else [])]))


def _samples(
    found: Checked, classes: Sequence[str], members: Mapping[str, Mapping[str, list[str]]], seed: int
) -> Section:
    random, split = np.random.default_rng(seed), next(iter(members))
    each = int(np.clip(ALL_SAMPLES // max(1, len(classes)), 1, SAMPLES))
    pictures = Pictures(found, SMALL if len(classes) >= SMALL_FROM else SIDE)
    chosen = {}
    for name in classes:
        paths = members[split].get(name, [])
        places = random.choice(len(paths), min(each, len(paths)), replace=False) if paths else ()
        chosen[name] = [paths[place] for place in sorted(places)]
    if len(classes) > MANY:
        notes = {path: short(name) for name, paths in chosen.items() for path in paths}
        body = [pictures.cards(notes, notes)]
    else:
        body = [part for name, paths in chosen.items() for part in (tag("h3", short(name)), pictures.cards(paths))]
    return Section("samples", f"Samples of {split}", join(*body) if classes else paragraph("There is none."))


def _odd(found: Checked) -> Section:
    kinds = odd(found.headers, found.looks)
    pictures, body = Pictures(found), []
    for kind, paths in kinds.items():
        body += [tag("h3", f"{kind[0].upper()}{kind[1:]}: {len(paths):,}")]
        body.append(pictures.cards(paths[:SHOWN], {path: _about(found, path) for path in paths[:SHOWN]}))
        if len(paths) > SHOWN:
            rest = [tag("li", short(path, 200)) for path in paths[SHOWN : SHOWN + NAMED]]
            more = len(paths) - SHOWN - NAMED
            rest += [tag("li", f"… and {more:,} more")] if more > 0 else []
            body.append(details(f"{len(paths) - SHOWN:,} more", tag("ul", *rest)))
    note = "Odd is not wrong; most of it is told from the other images of this folder." if kinds else "None was found."
    return Section("odd", "Files that look odd", join(paragraph(note), *body))


def _about(found: Checked, path: str) -> str:
    header, look = found.headers[path], found.looks[path]
    return f"{header.width} x {header.height}, brightness {look.brightness:.0f}, contrast {look.contrast:.0f}"
