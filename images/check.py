"""A report on a data folder: what is in it, and what a person should mend before training on it."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from tabulate import tabulate

import include
from images.appearance import Appearance, appearance
from images.duplicates import Print, compared, fingerprint, identical, nearly_identical
from images.folder import in_threads, scan
from images.read import DIFFERS, Header, ImageError, read_header, read_image
from images.shards import walk
from images.walk import LABELS, Walk
from utils import UserError, did_you_mean, printable

NAMED: Final = 20  # of many findings of one kind, this many are named
MEMBERS: Final = 4  # of a group, this many are named in each split
Group = tuple[str, ...]  # paths of images that show the same


@dataclass
class Checked:
    """What was found in a data folder.

    Attributes:
        root: the folder.
        counts: images per split and class; of multi-label data the class is "".
        labels: class of each image, by path relative to the root; none of multi-label data.
        headers: of the readable images, by path relative to the root.
        looks: how these look.
        unreadable: path and reason.
        structure: what is wrong with the folders.
        identical: groups of images with the same pixels.
        alike: groups of images that look nearly the same.
        mirrored: groups of images of which some look like others seen in a mirror.
        notes: what was passed over or not looked at.
    """

    root: Path
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    headers: dict[str, Header] = field(default_factory=dict)
    looks: dict[str, Appearance] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    structure: list[str] = field(default_factory=list)
    identical: list[Group] = field(default_factory=list)
    alike: list[Group] = field(default_factory=list)
    mirrored: list[Group] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def findings(self) -> dict[str, list[str]]:
        """Everything to mend by its kind, the gravest first: images that leak from one split into another."""
        found = {kind: [_members(group) for group in groups] for kind, groups in self.doubles().items()}
        found["unreadable"] = [f"{printable(path)}: {reason}" for path, reason in self.unreadable.items()]
        found["structure"] = self.structure
        return {kind: lines for kind, lines in found.items() if lines}

    def doubles(self) -> dict[str, list[Group]]:
        """Groups of images that show the same, by where they lie and how far they are the same, the gravest first."""
        found: dict[str, list[Group]] = {}
        kinds = {"are identical": self.identical, "look nearly identical": self.alike, "are mirrored": self.mirrored}
        for where in ("across splits", "within a split, of different classes", "within a split"):
            for what, groups in kinds.items():
                found[f"{where}, {what}"] = [group for group in groups if self._where(group) == where]
        return found

    def _where(self, group: Group) -> str:
        if len({_split(path) for path in group}) > 1:
            return "across splits"
        of_one = len({self.labels.get(path) for path in group}) == 1
        return "within a split" if of_one else "within a split, of different classes"


def check(data_dir: Path, max_megapixels: float = 50) -> Checked:
    """Looks at every image of a data folder, decoding each.

    Raises:
        UserError: when there is no such folder, no split in it, or a folder that cannot be read.
    """
    shown = printable(str(data_dir))
    splits = [split for split in include.SPLITS if (data_dir / split).is_dir()]
    if not splits:
        what = f"none of {', '.join(include.SPLITS)} is in it" if data_dir.is_dir() else "no such folder"
        raise UserError(f"{shown}: {what}")
    found = Checked(data_dir)
    multi_label = (data_dir / splits[0] / LABELS).is_file()
    try:
        ways = [walk(data_dir, split) for split in splits]
        known = not any(way.problems for way in ways)  # else tar files: what is in them is not known
        paths = [path for way in ways for path in _paths(found, way, multi_label)]
    except OSError as error:
        raise UserError(f"{printable(str(error.filename))}: cannot be read ({error.strerror})") from error
    _check_structure(found, comparable=known and not multi_label)
    _look_at(found, paths, max_megapixels)
    return found


def _look_at(found: Checked, paths: Sequence[str], max_megapixels: float) -> None:
    """Decodes the images, and compares them with each other."""
    by_look = {paths[place] for place in compared(len(paths))}

    def look(path: str) -> tuple[Header, Appearance, Print] | str:
        try:
            header = read_header(found.root / path, max_megapixels)
            pixels = read_image(found.root / path, max_megapixels=max_megapixels)
        except ImageError as error:
            return error.reason
        if pixels.shape[:2] != (header.height, header.width):
            return DIFFERS
        return header, appearance(pixels), fingerprint(pixels, path in by_look)

    prints: dict[str, Print] = {}
    for path, seen in zip(paths, in_threads(look, paths, "reading"), strict=True):
        if isinstance(seen, str):
            found.unreadable[path] = seen
        else:
            found.headers[path], found.looks[path], prints[path] = seen
    names = list(prints)
    search = nearly_identical(list(prints.values()))
    found.identical = [tuple(names[i] for i in group) for group in identical(list(prints.values()))]
    found.alike = [tuple(names[i] for i in group) for group in search.groups]
    found.mirrored = [tuple(names[i] for i in group) for group in search.mirrored]
    found.notes += search.limits


def _paths(found: Checked, way: Walk, multi_label: bool) -> list[str]:
    split = way.split
    if multi_label:
        paths = way.images(split)
        found.counts[split] = Counter({"": len(paths)})
    else:
        members = {name: way.images(f"{split}/{name}") for name in way.classes()}
        found.counts[split] = Counter({name: len(images) for name, images in members.items()})
        found.labels |= {path: name for name, images in members.items() for path in images}
        paths = [path for images in members.values() for path in images]
    found.structure += way.problems
    found.notes += way.notes()
    return paths


def _check_structure(found: Checked, comparable: bool) -> None:
    """Classes that differ between splits or have no image; a missing split, or else all that training refuses."""
    if "train" in found.counts and comparable:
        _compare_classes(found)
    needed = dict.fromkeys(("train", "valid", *found.counts))
    if len(needed) > len(found.counts) or not found.structure:
        try:
            scan(found.root, list(needed))
        except UserError as error:
            found.structure += str(error).splitlines()


def _compare_classes(found: Checked) -> None:
    classes = found.counts["train"]
    for split, counts in found.counts.items():
        for name in sorted(set(counts) - set(classes)):
            found.structure.append(f"{split}/{printable(name)}: train has no such class{did_you_mean(name, classes)}")
        for name in sorted(set(classes) - set(counts)):
            found.structure.append(f"{split}/{printable(name)}: is missing, while train has the class")
        found.structure += [f"{split}/{printable(name)}: has no image" for name, n in sorted(counts.items()) if not n]


def _split(path: str) -> str:
    return path.partition("/")[0]


def _members(group: Group) -> str:
    """The images of a group, the first few of each split by name."""
    names = []
    for split, paths in itertools.groupby(group, _split):
        here = list(paths)
        names += [printable(path) for path in here[:MEMBERS]]
        names += [f"{len(here) - MEMBERS:,} more in {split}"] if len(here) > MEMBERS else []
    return ", ".join(names)


# --- words -----------------------------------------------------------------------------------------------------------


def report(found: Checked) -> str:
    """The report as text: tables of what is there, then the findings."""
    findings = found.findings()
    lines = [f"findings: {sum(map(len, findings.values())):,}" if findings else "findings: none"]
    for kind, several in findings.items():
        lines += [f"  {kind}: {line}" if kind != "structure" else f"  {line}" for line in several[:NAMED]]
        lines += [f"  … and {len(several) - NAMED:,} more like it"] if len(several) > NAMED else []
    parts = [_classes_table(found), _sizes_table(found), *(f"note: {note}" for note in found.notes)]
    return "\n\n".join([*parts, "\n".join(lines)])


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
        list(size_rows(found)),
        ["split", "width", "height", "modes", "formats", "turned by EXIF"],
        disable_numparse=True,
    )


def size_rows(found: Checked) -> Iterator[list[str]]:
    """Of each split: widths, heights, modes, formats, and images that EXIF turns."""
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
