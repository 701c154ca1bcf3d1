"""Every call by which a training changes files, counted; at the one of a given number something happens.

A boundary is the moment before such a call, or half way through a write. The moment after a call is the one before the
next, as only these calls change files.
"""

import contextlib
import io
import os
import re
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# Parts of names that differ between runs, and what stands for them in labels.
VARYING = {
    r"\.dossier-[^/]*": "temporary",
    r"\.building-[0-9a-f]{12}": ".building",
    r"-[0-9a-f]{16}": "-digest",
    r"before-[\d-]+": "before",
}


class Boundaries:
    """Wraps the calls of the operating system in this process.

    Args:
        roots: name -> folder; calls that change nothing below one of them pass.
        at: called at each boundary, with its number, counted from 1, and its label. An OSError that it raises stands
            for one of the call.
        flushing: whether fsync does what it is for.
    """

    def __init__(self, roots: dict[str, str], at: Callable[[int, str], None], flushing: bool = True) -> None:
        self.roots = {name: os.path.realpath(folder) for name, folder in roots.items()}
        self.at, self.flushing = at, flushing
        self.labels: list[str] = []
        self._one_at_a_time = threading.RLock()
        self.unsynced: dict[tuple[int, int], int] = {}  # file written since its last fsync -> a descriptor of it
        self.undo: list[tuple[str, Callable[[], None]]] = []  # folder, and how to undo a new name in it

    def wrap(self) -> None:
        """From now on every call is seen."""
        self._open, self._open_file, self._unlink, self._pwrite = os.open, io.open, os.unlink, os.pwrite
        self._rename = os.rename
        # os.fdopen and pathlib call io.open; logging has the one in builtins
        for module, wrapper in ((os, self._opening), (io, self._opening_file)):
            setattr(module, "open", wrapper)  # noqa: B010
        for name in ("replace", "rename", "link"):
            setattr(os, name, self._naming(name, getattr(os, name)))
        for name in ("unlink", "mkdir", "rmdir"):
            setattr(os, name, self._on_path(name, getattr(os, name)))
        for name in ("fsync", "fchmod", "ftruncate", "pwrite"):
            setattr(os, name, self._on_descriptor(name, getattr(os, name)))

    # --- what is wrapped ---

    def _opening(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & WRITING:
            self._before("open", path)
        return self._open(path, flags, mode, dir_fd=dir_fd)

    def _opening_file(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        writing = bool(set(mode) & set("wax+"))
        if writing and not isinstance(file, int):
            self._before("open", file)
        opened = self._open_file(file, mode, *args, **kwargs)
        return _File(opened, self) if writing and self._label(opened.fileno()) else opened

    def _naming(self, name: str, call: Callable[..., None]) -> Callable[..., None]:
        def wrapped(source: Any, target: Any, **kwargs: Any) -> None:
            self._before(name, target)
            old = _content(target)
            call(source, target, **kwargs)
            self.undo.append((str(Path(target).parent.resolve()), lambda: self._restore(source, target, old)))

        return wrapped

    def _on_path(self, name: str, call: Callable[..., None]) -> Callable[..., None]:
        def wrapped(path: Any, *args: Any, **kwargs: Any) -> None:
            folder = kwargs.get("dir_fd")
            self._before(name, path if folder is None else f"{_path(folder)}/{path}")
            call(path, *args, **kwargs)

        return wrapped

    def _on_descriptor(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(descriptor: int, *args: Any) -> Any:
            if name == "pwrite":
                self._before("write", descriptor)
                data, offset = memoryview(args[0]).cast("B"), args[1]
                half = len(data) // 2
                call(descriptor, data[:half], offset)
                self.written(descriptor)
                self._before("half write", descriptor)
                return half + call(descriptor, data[half:], offset + half)
            self._before(name, descriptor)
            if name == "fsync" and self.flushing:
                self._synced(descriptor)
            return call(descriptor, *args)

        return wrapped

    # --- what is noted ---

    def _label(self, target: Any) -> str:
        """Where a path or a descriptor leads, without what differs between runs; empty when outside of the roots."""
        path = os.path.realpath(_path(target) if isinstance(target, int) else target)
        for name, root in self.roots.items():
            if path == root or path.startswith(root + os.sep):
                inside = path[len(root) + 1 :]
                for varying, fixed in VARYING.items():
                    inside = re.sub(varying, fixed, inside)
                return f"{name}/{inside}"
        return ""

    def _before(self, operation: str, target: Any) -> None:
        if place := self._label(target):
            with self._one_at_a_time:  # files are flushed by threads
                self.labels.append(f"{operation} {place}")
                self.at(len(self.labels), self.labels[-1])

    def written(self, descriptor: int) -> None:
        """Notes that a file holds bytes that the device may not have."""
        about = os.fstat(descriptor)
        key = (about.st_dev, about.st_ino)
        if self._label(descriptor) and key not in self.unsynced:
            self.unsynced[key] = self._open(_path(descriptor), os.O_RDWR)

    def _synced(self, descriptor: int) -> None:
        about = os.fstat(descriptor)
        if stat.S_ISDIR(about.st_mode):
            folder = _path(descriptor)
            self.undo = [(place, undo) for place, undo in self.undo if place != folder]
        elif (kept := self.unsynced.pop((about.st_dev, about.st_ino), None)) is not None:
            os.close(kept)

    # --- what may be lost ---

    def lose(self, what: str) -> int:
        """What a power cut may do.

        Args:
            what: "": nothing; "data": the second half of each file that was not flushed becomes zeros; "names": that,
                and names in folders that were not flushed are what they were before.

        Returns:
            How many files and names were lost.
        """
        files = list(self.unsynced.values()) if what else []
        for descriptor in files:
            size = os.fstat(descriptor).st_size
            self._pwrite(descriptor, bytes(size - size // 2), size // 2)
        renamed = self.undo if what == "names" else []
        for _, undo in reversed(renamed):
            undo()
        return len(files) + len(renamed)

    def _restore(self, source: Any, target: Any, old: bytes | None) -> None:
        if Path(target).is_dir():
            self._rename(target, source)
            return
        with contextlib.suppress(OSError):
            self._unlink(target)
        if old is not None:
            descriptor = self._open(target, os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, old)
            os.close(descriptor)


class _File:
    """An open file whose writes are seen."""

    def __init__(self, file: Any, boundaries: Boundaries) -> None:
        self._file, self._boundaries = file, boundaries

    def write(self, data: Any) -> int:
        before, descriptor = self._boundaries._before, self._file.fileno()
        before("write", descriptor)
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._boundaries.written(descriptor)
        before("half write", descriptor)
        self._file.write(data[half:])
        return len(data)

    def truncate(self, size: int) -> None:
        self._boundaries._before("truncate", self._file.fileno())
        self._file.truncate(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _path(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def _content(path: Any) -> bytes | None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return None


def kill() -> None:
    """Ends this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)
