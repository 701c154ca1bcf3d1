"""Images in tar files, the shards of WebDataset: <split>/<name>.tar stands for a folder of that name. No torch.

An image in one is called <split>/<name>.tar/<member> and is read from its place in the file: nothing is unpacked, any
order costs the same, and whatever reads image files reads these too. Its class is the text of the member <key>.cls
beside it, where <key> is its own name up to the first dot, else the first folder of its name.
"""

import errno
import functools
import hashlib
import io
import os
import posixpath
import tarfile
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import Final, NamedTuple

import include
from images.walk import LABELS, Walk, is_folder, is_hidden
from utils import UserError, printable, progress

SUFFIX: Final = ".tar"
COMPRESSED: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
CLASS: Final = ".cls"
LONGEST: Final = 255  # bytes of a class's name, as of a folder's
NO_TEXT: Final = ("Cc", "Cs")  # control characters, and bytes that are not UTF-8


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        tar: path of the tar.
        about: what the system says of it.
        offset: where the file's bytes begin.
        size: their number.
    """

    tar: str
    about: os.stat_result
    offset: int
    size: int

    def read(self) -> bytes:
        """The file's bytes."""
        with open(self.tar, "rb") as file:  # noqa: PTH123 (once per image: a Path takes longer)
            file.seek(self.offset)
            return file.read(self.size)


def locate(path: str | Path) -> Member | None:
    """Where in a tar a file lies; None for one that lies in no tar.

    Raises:
        FileNotFoundError: when the tar has no such member.
        UserError: when the tar is damaged.
    """
    text = os.fspath(path)
    end = text.find(f"{SUFFIX}/")
    while end >= 0:
        tar, name = text[: end + len(SUFFIX)], text[end + len(SUFFIX) + 1 :]
        if os.path.isfile(tar):  # noqa: PTH113 (as above)
            about = os.stat(tar)  # noqa: PTH116
            place = _index(tar, about.st_size, about.st_mtime_ns, about.st_ino).get(name)
            if place is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
            return Member(tar, about, *place)
        end = text.find(f"{SUFFIX}/", end + 1)
    return None


def opened(path: Path) -> Path | io.BytesIO:
    """What stands for a file where either its path or an open file will do."""
    member = locate(path)
    return path if member is None else io.BytesIO(member.read())


@functools.cache
def _index(tar: str, size: int, modified: int, inode: int) -> dict[str, tuple[int, int] | None]:
    """Offset and size of each file in a tar, as it was at some time; of several of one name the last counts.

    A link is where the file lies that it leads to; None, as of special and sparse files, where that is not in the tar.
    """
    found: dict[str, tuple[int, int] | None] = {}
    links: dict[str, str] = {}
    try:
        with tarfile.open(tar, "r:") as file:
            for info in file:
                name = _plain(info.name)
                links.pop(name, None)
                if info.isreg() and not info.issparse():
                    found[name] = (info.offset_data, info.size)
                elif not info.isdir():
                    found[name] = None
                if info.issym() or info.islnk():
                    links[name] = _plain(info.linkname if info.islnk() else f"{name}/../{info.linkname}")
            # tarfile takes a damaged header for the end, silently; the real end is a block of zeros.
            file.fileobj.seek(file.offset)
            if file.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it ends early")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise UserError(f"{printable(tar)}: is damaged, or no tar ({printable(str(error))})") from error
    for name in links:
        target, passed = name, set[str]()
        while target in links and target not in passed:
            passed.add(target)
            target = links[target]
        found[name] = found.get(target)
    return found


def _plain(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


def walk(root: Path, split: str) -> Walk:
    """The way through a split: its tar files where it has any, else its folders."""
    with os.scandir(root / split) as entries:
        tars = (e for e in entries if e.name.endswith((SUFFIX, *COMPRESSED)) and not is_hidden(e.name))
        sharded = any(not is_folder(entry) for entry in tars)
    return Shards(root, split) if sharded else Walk(root, split)


class Shards(Walk):
    """The images in the tar files of one split; a Walk in every other respect."""

    def __init__(self, root: Path, split: str) -> None:
        super().__init__(root, split)
        self._images: list[str] = []
        self._labels: dict[str, str] = {}  # key -> class, of the images that have a member for it
        for entry in self._entries(split):
            path = f"{split}/{entry.name}"
            if is_folder(entry):
                self.problems.append(f"{self._shown(path)}: is a folder beside tar files; put all images into one kind")
            elif entry.name.endswith(COMPRESSED):
                self.problems.append(f"{self._shown(path)}: is compressed; images are read from plain {SUFFIX} files")
            elif entry.name.endswith(SUFFIX):
                try:
                    self._look_into(path)
                except UserError as error:  # it is damaged; the others are looked at all the same
                    self.problems.append(str(error))
            elif entry.name != LABELS:
                self._ignored["files that are no tar"] += 1

    def classes(self) -> list[str]:
        """Names of the classes, sorted as folders are; numbers that members tell in the order of the numbers."""
        names = sorted(self._members)
        return sorted(names, key=int) if self._labels and all(name.isdecimal() for name in names) else names

    def images(self, start: str) -> list[str]:
        """The images of the split or, where the start is <split>/<class>, of a class, sorted."""
        if start == self.split:
            return sorted(self._images)
        return sorted(self._members.get(start.removeprefix(f"{self.split}/"), ()))

    @functools.cached_property
    def _members(self) -> dict[str, list[str]]:
        """The images of each class; those without one go to the problems, once."""
        found = defaultdict(list)
        for path in self._images:
            if name := self._class_of(path):
                found[name].append(path)
        return found

    def _look_into(self, tar: str) -> None:
        about = (self.root / tar).stat()
        places = _index(os.fspath(self.root / tar), about.st_size, about.st_mtime_ns, about.st_ino)
        with (self.root / tar).open("rb") as file:
            for name, place in places.items():
                if any(is_hidden(part) for part in name.split("/")):
                    self._ignored["hidden files and folders"] += 1
                elif place is None:
                    self._ignored["members that are links to elsewhere, or no plain files"] += 1
                elif name.lower().endswith(include.IMAGE_SUFFIXES):
                    self._images.append(f"{tar}/{name}")
                elif name.endswith(CLASS):
                    file.seek(place[0])
                    text = file.read(min(place[1], 2 * LONGEST))
                    self._labels[_key(f"{tar}/{name}")] = text.decode("utf-8", "surrogateescape").strip()
                else:
                    self._ignored["files that are not images by their name"] += 1

    def _class_of(self, path: str) -> str | None:
        """The class of an image; None after noting as a problem that it has none."""
        inside = path.partition(f"{SUFFIX}/")[2]
        name = self._labels.get(_key(path), inside.partition("/")[0] if "/" in inside else "")
        if (
            name
            and not is_hidden(name)
            and "/" not in name
            and len(os.fsencode(name)) <= LONGEST
            and not any(unicodedata.category(character) in NO_TEXT for character in name)
        ):
            return name
        why = f"{printable(name)!r} cannot be the name of a class" if name else f"has no class: no folder, no {CLASS}"
        self.problems.append(f"{self._shown(path)}: {why}")
        return None

    def _shown(self, path: str) -> str:
        return printable(str(self.root / path))


def _key(path: str) -> str:
    """A member's name up to the first dot behind its folders: what WebDataset's files of one image have in common."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}"


def pack(split: Path, per_tar: int) -> None:
    """Puts the images of a split's class folders into tar files, and removes the folders.

    Each tar has images of all classes, by a hash of their names, so that one tar is a fair part of the whole. The same
    images make the same bytes.
    """
    names = sorted(path.relative_to(split).as_posix() for path in split.rglob("*") if path.is_file())
    names.sort(key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
    folders = [path for path in split.iterdir() if path.is_dir()]
    digits = len(str((len(names) - 1) // per_tar))
    for number in progress(range(0, len(names), per_tar), f"packing {split.name}", unit=" tars"):
        with tarfile.open(split / f"{number // per_tar:0{digits}d}{SUFFIX}", "w", format=tarfile.PAX_FORMAT) as tar:
            for name in names[number : number + per_tar]:
                info = tarfile.TarInfo(name)
                info.size = (split / name).stat().st_size
                with (split / name).open("rb") as file:
                    tar.addfile(info, file)
                (split / name).unlink()
    for folder in folders:
        folder.rmdir()
