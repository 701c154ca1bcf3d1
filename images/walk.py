"""The way through the files of one split: which of them are images, and what was passed over. No torch."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import include
from utils import printable

LABELS: Final = "labels.csv"
JUNK: Final = ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found")


class Walk:
    """Finds the images of one split, each real folder once, and remembers what is wrong and what it passed over.

    Links to folders are followed, but for those into the split itself or back above it, whose images have their place
    already. A link that leads nowhere counts as an image when it is called like one, to be found unreadable later.

    Attributes:
        problems: a line for each.
        remarks: a line for each thing worth knowing.
    """

    def __init__(self, root: Path, split: str) -> None:
        self.root, self.split = root, split
        self.problems: list[str] = []
        self.remarks: list[str] = []
        self._home = os.path.realpath(root / split)
        self._reached: dict[tuple[int, int], str] = {}  # real folders, and the name by which each was reached first
        self._ignored: Counter[str] = Counter()

    def classes(self) -> list[str]:
        """Names of the split's class folders, sorted."""
        names = []
        for entry in self._entries(self.split):
            if is_folder(entry):
                names.append(entry.name)
            else:
                self._ignored["files outside the class folders"] += 1
        return names

    def images(self, start: str) -> list[str]:
        """The images at and below a folder, if there is one, sorted; it and they are paths relative to the root."""
        found, folders = [], [start] if (self.root / start).is_dir() else []
        while folders:
            folder = folders.pop()
            if not self._is_new(folder, start):
                continue
            for entry in self._entries(folder):
                path = f"{folder}/{entry.name}"
                if is_folder(entry):
                    folders.append(path)
                elif entry.name.lower().endswith(include.IMAGE_SUFFIXES):
                    found.append(path)
                elif entry.name != LABELS:
                    self._ignored["files that are not images by their name"] += 1
        return sorted(found)

    def notes(self) -> list[str]:
        """The remarks, and counts of what was passed over."""
        split = printable(self.split)
        return self.remarks + [f"{split}: ignored {n} {what}" for what, n in sorted(self._ignored.items())]

    def _entries(self, folder: str) -> Iterator["os.DirEntry[str]"]:
        """What is in a folder, sorted, without what systems leave there."""
        with os.scandir(self.root / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if is_hidden(entry.name):
                    self._ignored["hidden files and folders"] += 1
                else:
                    yield entry

    def _is_new(self, folder: str, start: str) -> bool:
        """Whether to look into a folder that was reached from a start."""
        path = self.root / folder
        if folder != start and path.is_symlink():
            real = os.path.realpath(path)
            if os.path.commonpath([real, self._home]) in (real, self._home):
                self._ignored["links to folders of the same split"] += 1
                return False
        about = path.stat()
        first = self._reached.setdefault((about.st_dev, about.st_ino), folder)
        if first != folder and f"{first}/".startswith(f"{start}/"):
            self._ignored["links to folders that were visited before"] += 1
        elif first != folder:
            self.problems.append(f"{printable(str(path))}: is the same folder as {printable(first)}, of another class")
        return first == folder


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or of those that systems leave everywhere."""
    return name.startswith(".") or name.lower() in JUNK


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a folder, or a link to one."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()  # noqa: PTH112 (bears with link loops)
