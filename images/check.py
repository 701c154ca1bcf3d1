"""A report on a data folder: what is in it, and what a person should mend before training on it."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from tabulate import tabulate

import include
from images.duplicates import Print, fingerprint, identical, nearly_identical
from images.read import Header, ImageError, read_header, read_image
from images.walk import LABELS, Walk
from utils import UserError, did_you_mean, printable, progress

NAMED: Final = 20  # of many findings of one kind, this many are named
Group = tuple[str, ...]  # paths of images that show the same


@dataclass
class Checked:
    """What was found in a data folder.

    Attributes:
        root: the folder.
        counts: images per split and class; of multi-label data the class is "".
        headers: of the readable images, by path relative to the root.
        unreadable: path and reason.
        structure: what is wrong with the folders.
        identical: groups of images with the same pixels.
        alike: groups of images that look nearly the same.
        notes: what was passed over or not looked at.
    """

    root: Path
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    headers: dict[str, Header] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    structure: list[str] = field(default_factory=list)
    identical: list[Group] = field(default_factory=list)
    alike: list[Group] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def findings(self) -> list[str]:
        """Everything to mend, the gravest first: images that leak from one split into another."""
        kinds = (("are identical", self.identical), ("look nearly identical", self.alike))
        lines = []
        for across in (True, False):
            for what, groups in kinds:
                found = [group for group in groups if (len({_split(path) for path in group}) > 1) == across]
                where = "across splits" if across else "within a split"
                lines += _some([f"{where}, {what}: {', '.join(map(printable, group))}" for group in found])
        lines += _some([f"unreadable: {printable(path)}: {reason}" for path, reason in self.unreadable.items()])
        return lines + self.structure


def check(data_dir: Path, max_megapixels: float = 50) -> Checked:
    """Looks at every image of a data folder, decoding each.

    Raises:
        UserError: when there is no such folder, or no split in it.
    """
    splits = [split for split in include.SPLITS if (data_dir / split).is_dir()]
    if not splits:
        what = f"none of {', '.join(include.SPLITS)} is in it" if data_dir.is_dir() else "no such folder"
        raise UserError(f"{printable(str(data_dir))}: {what}")
    found = Checked(data_dir)
    paths = [path for split in splits for path in _paths(found, split)]
    _check_structure(found)

    def look(path: str) -> tuple[Header, Print] | str:
        try:
            header = read_header(data_dir / path, max_megapixels)
            return header, fingerprint(read_image(data_dir / path, max_megapixels=max_megapixels))
        except ImageError as error:
            return error.reason

    prints: dict[str, Print] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, seen in zip(paths, progress(pool.map(look, paths), "reading", len(paths), unit="image"), strict=True):
            if isinstance(seen, str):
                found.unreadable[path] = seen
            else:
                found.headers[path], prints[path] = seen
    names = list(prints)
    search = nearly_identical(list(prints.values()))
    found.identical = [tuple(names[i] for i in group) for group in identical(list(prints.values()))]
    found.alike = [tuple(names[i] for i in group) for group in search.groups]
    found.notes += search.limits
    return found


def _paths(found: Checked, split: str) -> list[str]:
    walk = Walk(found.root, split)
    if (found.root / split / LABELS).is_file():
        paths = walk.images(split)
        found.counts[split] = Counter({"": len(paths)})
    else:
        members = {name: walk.images(f"{split}/{name}") for name in walk.classes()}
        found.counts[split] = Counter({name: len(images) for name, images in members.items()})
        paths = [path for images in members.values() for path in images]
    found.structure += walk.problems
    found.notes += walk.notes()
    return paths


def _check_structure(found: Checked) -> None:
    """Splits that are missing, classes that differ between them or have no image."""
    found.structure += [f"{split}: is missing" for split in ("train", "valid") if split not in found.counts]
    classes = found.counts.get("train", Counter())
    for split, counts in found.counts.items():
        for name in sorted(set(counts) - set(classes)):
            found.structure.append(f"{split}/{printable(name)}: train has no such class{did_you_mean(name, classes)}")
        for name in sorted(set(classes) - set(counts)):
            found.structure.append(f"{split}/{printable(name)}: is missing, while train has the class")
        found.structure += [f"{split}/{printable(name)}: has no image" for name, n in sorted(counts.items()) if not n]


def _split(path: str) -> str:
    return path.partition("/")[0]


def _some(lines: Sequence[str]) -> list[str]:
    rest = len(lines) - NAMED
    return [*lines[:NAMED], *([f"… and {rest} more like it"] if rest > 0 else [])]


# --- words -----------------------------------------------------------------------------------------------------------


def report(found: Checked) -> str:
    """The report as text: tables of what is there, then the findings."""
    findings = found.findings()
    parts = [_classes_table(found), _sizes_table(found), *(f"note: {note}" for note in found.notes)]
    if findings:
        parts.append("\n".join([f"findings: {len(findings)}", *(f"  {line}" for line in findings)]))
    else:
        parts.append("findings: none")
    return "\n\n".join(parts)


def _classes_table(found: Checked) -> str:
    """Images per class and split."""
    splits = list(found.counts)
    names = sorted({name for counts in found.counts.values() for name in counts})
    rows = [[printable(name) or "(several per image)", *(found.counts[s][name] for s in splits)] for name in names]
    total = ["all", *(found.counts[split].total() for split in splits)]
    return tabulate([*rows, total], ["class", *splits], intfmt=",", disable_numparse=[0])


def _sizes_table(found: Checked) -> str:
    """Sizes, modes and formats per split."""
    return tabulate(
        list(_size_rows(found)),
        ["split", "width", "height", "modes", "formats", "turned by EXIF"],
        disable_numparse=True,
    )


def _size_rows(found: Checked) -> Iterator[list[str]]:
    for split in found.counts:
        headers = [header for path, header in found.headers.items() if _split(path) == split]
        if not headers:
            continue
        yield [
            split,
            _range([header.width for header in headers]),
            _range([header.height for header in headers]),
            _counted(header.mode for header in headers),
            _counted(header.format for header in headers),
            str(sum(header.orientation != 1 for header in headers)),
        ]


def _range(values: Sequence[int]) -> str:
    low, middle, high = min(values), int(np.median(values)), max(values)
    return str(low) if low == high else f"{low} to {high}, median {middle}"


def _counted(values: Iterator[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in Counter(values).most_common())
