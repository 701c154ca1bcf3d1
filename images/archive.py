"""Unpacking an archive that nobody vouches for: all of it, inside one new folder, or nothing.

Links are never made: a link to a file of the archive becomes a copy of that file, so no later member can be written
through one. Files are written plainly, into a folder that only a whole success renames into place (images/sources.py).
"""

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import posixpath
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from utils import TrainingFault, UserError, printable, progress

CHUNK: Final = 2**20
LARGEST_HEADER: Final = 2**24  # bytes; tarfile reads a member's extended header into memory whole

_OPENERS: Final[dict[bytes, Callable[..., Any]]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_DAMAGE: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    LookupError,
    ValueError,
    RuntimeError,
    OverflowError,
    OSError,
)
DISK_FAULTS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


@dataclass(frozen=True)
class Limits:
    """What an archive may grow to.

    Args:
        size: bytes, unpacked.
        members: how many.
        ratio: unpacked to packed size; looked at beyond `ratio_from` bytes, since little text may compress well.
        ratio_from: bytes.
    """

    size: int = 200 * 2**30
    members: int = 3_000_000
    ratio: int = 200
    ratio_from: int = 2**26


class _Refused(Exception):
    """Why a member is not unpacked."""


class _Member(NamedTuple):
    name: str
    kind: str  # "file", "folder", "link", or what it is that is refused
    size: int  # bytes
    link: str  # of a link: the name it points to, from the archive's top
    open: Callable[[], IO[bytes]]


@dataclass
class _Budget:
    """Counts what has been unpacked against the limits."""

    limits: Limits
    packed: int
    size: int = 0
    members: int = 0
    links: list[_Member] = field(default_factory=list)

    def add_member(self) -> None:
        self.members += 1
        if self.members > self.limits.members:
            raise _Refused(f"is one more than the {self.limits.members:,} members allowed")

    def add_bytes(self, count: int) -> None:
        self.size += count
        if count < 0 or self.size > self.limits.size:
            raise _Refused(f"brings the archive to {self.size:,} bytes; {self.limits.size:,} are allowed")
        if self.size > max(self.limits.ratio_from, self.limits.ratio * self.packed):
            raise _Refused(f"unpacks to more than {self.limits.ratio} times the archive's size")


def extract(archive: Path, target: Path, sha256: str | None = None, limits: Limits | None = None) -> str:
    """Unpacks a tar (plain, gz, bz2, xz) or a zip into a new folder.

    Args:
        archive: the file; its kind is told by its content.
        target: a folder that does not exist yet; removed again when anything is wrong.
        sha256: what the file must hash to, hexadecimal.
        limits: sizes and counts allowed.

    Returns:
        the archive's sha256.

    Raises:
        UserError: naming the archive and the member that is refused, or the damage.
        TrainingFault: when the disk is full or fails.
    """
    shown, digest = printable(str(archive)), _sha256(archive)
    if sha256 is not None and digest != sha256.strip().lower():
        raise UserError(f"{shown}: sha256 is {digest}, not {printable(sha256)}; download it again")
    try:
        head, packed = _head(archive), archive.stat().st_size
        target.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{shown}: cannot be unpacked ({printable(f'{error.strerror}: {error.filename}')})") from error
    budget, name = _Budget(limits or Limits(), packed), ""
    try:
        for member in progress(_members(archive, head, budget), f"unpacking {printable(archive.name)}", unit=" files"):
            name = member.name
            _unpack(member, target, budget)
        for member in budget.links:
            name = member.name
            _copy_linked(member, target, budget)
        if budget.members == 0:
            raise ValueError("it is empty")
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, (_Refused, *_DAMAGE)):
            member_text = f'member "{printable(name[:200])}" ' if name else ""
            fault = isinstance(error, OSError) and error.errno in DISK_FAULTS
            kind = TrainingFault if fault else UserError
            raise kind(f"{shown}: {_explain(error, member_text)}; nothing was unpacked") from error
        raise
    return digest


def _explain(error: BaseException, member: str) -> str:
    if isinstance(error, _Refused):
        return f"{member}{error}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{member}cannot be written ({error.strerror})"
    at = f" at or after {member.strip()}" if member else ""
    return f"damaged, or not a tar or zip archive{at} ({printable(str(error)[:200])})"


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{printable(str(path))}: cannot be read ({error.strerror})") from error


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def _unpack(member: _Member, target: Path, budget: _Budget) -> None:
    budget.add_member()
    name = _safe(member.name)
    path = target / name
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    if not name:
        raise _Refused("has no name")
    if member.kind == "link":
        budget.links.append(member._replace(name=name))
        return
    if member.kind != "file":
        raise _Refused(f"is {member.kind}")
    budget.add_bytes(member.size)
    _write(path, member.open)


def _copy_linked(member: _Member, target: Path, budget: _Budget) -> None:
    source = target / _safe(member.link, "links outside the archive")
    if not source.is_file():
        raise _Refused(f'links to "{printable(member.link[:200])}", which is no file of the archive')
    budget.add_bytes(source.stat().st_size)
    _write(target / member.name, lambda: source.open("rb"))


def _write(path: Path, opened: Callable[[], IO[bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file, opened() as data:
            shutil.copyfileobj(data, file, CHUNK)
    except FileExistsError as error:
        raise _Refused("is there twice") from error


def _safe(name: str, otherwise: str = "would be written outside the target") -> str:
    """The name without "./" and double slashes; "" for the top."""
    if any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in name):
        raise _Refused("has control characters in its name")
    if any(0xD800 <= ord(c) < 0xE000 for c in name):
        raise _Refused("has a name that is not UTF-8")
    if name.startswith("/") or ".." in name.split("/") or name[1:2] == ":":
        raise _Refused(otherwise)
    if "\\" in name:
        raise _Refused("has a backslash in its name")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _members(archive: Path, head: bytes, budget: _Budget) -> Iterator[_Member]:
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _zip_members(archive)
    opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), open)
    return _tar_members(archive, opener, budget)


# --- tar -------------------------------------------------------------------------------------------------------------


class _Careful(io.BufferedReader):
    """A stream that refuses a header of absurd size, and remembers the last block."""

    last = b""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = super().read(size)
        return self.last


def _tar_members(archive: Path, opener: Callable[..., Any], budget: _Budget) -> Iterator[_Member]:
    with opener(archive, "rb") as raw, _Careful(raw) as stream, tarfile.TarFile(fileobj=stream) as tar:
        while (info := tar.next()) is not None:
            yield _tar_member(tar, info)
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header
        # tarfile takes a damaged header for the end, silently; the real end is a block of zeros.
        if stream.last != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends early; is the download complete?")
        while rest := stream.read(CHUNK):  # to the end, where the compressed formats have their checksum
            budget.add_bytes(len(rest))


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    if info.issparse():
        kind = "a sparse file"
    elif info.isreg():
        kind = "file"
    elif info.isdir():
        kind = "folder"
    elif info.issym() or info.islnk():
        kind = "link"
    elif info.isdev():
        kind = "a device or pipe"
    else:
        kind = f"of an unknown type ({info.type!r})"
    link = _symlink_target(info.name, info.linkname) if info.issym() else info.linkname

    def opened() -> IO[bytes]:
        if (data := tar.extractfile(info)) is None:
            raise tarfile.ReadError("no data")
        return data

    return _Member(info.name, kind, info.size, link, opened)


def _symlink_target(name: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), link))


# --- zip -------------------------------------------------------------------------------------------------------------


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            yield _zip_member(file, info)


def _zip_member(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    name, mode = info.orig_filename, info.external_attr >> 16
    link, kind = "", "folder" if info.is_dir() else "file"
    if info.flag_bits & 1:
        kind = "encrypted"
    elif stat.S_ISLNK(mode):
        if info.file_size > 4096:
            raise zipfile.BadZipFile("a link of more than 4096 bytes")
        kind, link = "link", _symlink_target(name, file.read(info).decode("utf-8", "surrogateescape"))
    elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        kind = "a device or pipe"
    return _Member(name, kind, info.file_size, link, lambda: file.open(info))
