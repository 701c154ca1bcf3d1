"""Small helpers: errors that reach a person, whole files or none, strict JSON, logging, progress. No torch."""

import contextlib
import difflib
import functools
import hashlib
import importlib
import json
import logging
import math
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

import include

T = TypeVar("T")

log = logging.getLogger("dossier")

TEMPORARY_PREFIX: Final = ".dossier-"
FLUSHED_AT_ONCE: Final = 8  # files


class UserError(Exception):
    """Something a person can put right: one line (or one line per problem) that names the file and the fix."""

    exit_code = include.BAD_INPUT


class BusyError(UserError):
    """The folder is in use by another process, or already holds a finished run."""

    exit_code = include.BUSY


class TrainingFault(Exception):
    """Training cannot go on.

    Args:
        message: one line for the person.
        reason: the state's reason in status.json: error, oom, diverged, timeout or invalid.
    """

    exit_code = include.FAULT

    def __init__(self, message: str, reason: str = "error") -> None:
        super().__init__(message)
        self.reason = reason


class Interrupted(KeyboardInterrupt):
    """A signal stopped the program at a point from which the same command continues.

    It can be raised anywhere, and like its base it passes through code that catches every Exception.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


def reports_errors(main: Callable[..., int]) -> Callable[..., int]:
    """Makes a program's main print what a person must know in one line and return the exit code."""

    @functools.wraps(main)
    def wrapped(*args: Any, **kwargs: Any) -> int:
        try:
            return main(*args, **kwargs)
        except (UserError, TrainingFault, Interrupted) as error:
            if str(error):
                sys.stderr.write(f"{error}\n")
            return error.exit_code
        except KeyboardInterrupt:
            return 130

    return wrapped


# --- names -----------------------------------------------------------------------------------------------------------


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, or None when nothing is near."""
    folded = {choice.lower(): choice for choice in sorted(choices, reverse=True)}
    likeness = 0.6 if len(name) > 2 else 0.5  # one of two letters right is half
    found = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=likeness)
    return folded[found[0]] if found else None


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The end of an error message: the nearest name, else the choices when they are few, else nothing."""
    choices = sorted(choices)
    if (near := nearest(name, choices)) is not None:
        return f'; did you mean "{printable(near)}"?'
    return f"; choose from {printable(', '.join(choices))}" if 0 < len(choices) <= 20 else ""


def select(name: str, table: Mapping[str, T], what: str) -> T:
    """The table's entry of that name.

    Raises:
        UserError: naming the nearest choice.
    """
    if name not in table:
        raise UserError(f'"{name}" is not a known {what}{did_you_mean(name, table)}')
    return table[name]


def optional_import(module: str, extra: str) -> ModuleType:
    """Imports a package that only some uses need.

    Raises:
        UserError: with the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"{module} is not installed: pip install '{extra}'") from error


def positional(number: float) -> str:
    """A number as people write it in names: 0.0001, never 1e-04."""
    if isinstance(number, bool) or not math.isfinite(number):
        return str(number)
    text = format(Decimal(number if isinstance(number, int) else repr(float(number))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def printable(text: str) -> str:
    """Text from a file system or a file, safe on a terminal and in a one-line message."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# --- files -----------------------------------------------------------------------------------------------------------


def write_atomic(path: Path, data: bytes) -> str:
    """Writes a whole file or leaves what was there: `write_all_atomic` of one file.

    Returns:
        sha256 of the data, hexadecimal.

    Raises:
        TrainingFault: naming the file, what it needs and the space left.
    """
    return write_all_atomic(path.parent, {path.name: data})[path.name]


def write_all_atomic(folder: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Writes files of one folder, each whole or leaving what was there; the project's only way to write one.

    Temporary files in the same folder are written, flushed to the device and renamed over the targets, then the folder
    is flushed, so that a reader, a crash or a full disk sees of each file the old bytes or the new ones. Several are
    flushed at the same time, which a device does in little more time than one.

    Args:
        folder: where.
        files: all of each, by name.

    Returns:
        sha256 of each, hexadecimal.

    Raises:
        TrainingFault: naming the file, what it needs and the space left.
    """
    temporaries: dict[str, str] = {}

    def flush(name: str) -> None:
        with _telling(folder / name, len(files[name])):
            _flush(temporaries[name])

    try:
        for name, data in files.items():
            with _telling(folder / name, len(data)):
                descriptor, temporaries[name] = tempfile.mkstemp(dir=folder, prefix=TEMPORARY_PREFIX)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    os.fchmod(file.fileno(), 0o666 & ~_umask())
        if len(files) == 1:
            flush(*files)
        else:
            with ThreadPoolExecutor(FLUSHED_AT_ONCE) as pool:
                list(pool.map(flush, files))  # which raises what a thread raised
        for name, data in files.items():
            with _telling(folder / name, len(data)):
                os.replace(temporaries[name], folder / name)  # noqa: PTH105 (the call that fault injection wraps)
    finally:  # also when a signal's exception passes through
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
    with _telling(folder):
        _flush(folder)
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, where there is none.

    Raises:
        TrainingFault: naming the folder and the space left.
    """
    with _telling(path):
        path.mkdir(parents=True, exist_ok=True)


def move(path: Path, target: Path) -> None:
    """Gives a file or folder another name on the same file system.

    Raises:
        TrainingFault: naming the target and the space left.
    """
    with _telling(target):
        path.rename(target)


def keep_previous(path: Path, previous: Path) -> None:
    """Gives the file a second name, replacing what had that name, before the file itself is written anew."""
    if not path.is_file():
        return
    temporary = path.parent / f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}"
    try:
        temporary.unlink(missing_ok=True)
        temporary.hardlink_to(path)
        os.replace(temporary, previous)  # noqa: PTH105
    except OSError:  # a file system without hard links
        write_atomic(previous, path.read_bytes())
    finally:  # replace leaves it there where both are names of the same file already
        with contextlib.suppress(OSError):
            temporary.unlink()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _flush(path: Path | str) -> None:
    """Has the device keep what was written to a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _telling(path: Path, size: int = 0) -> Iterator[None]:
    """Raises TrainingFault where a file of so many bytes, or a folder, cannot be written."""
    try:
        yield
    except OSError as error:
        raise TrainingFault(_write_failure(path, size, error)) from error


def _write_failure(path: Path, size: int, error: OSError) -> str:
    try:
        there = next(filter(Path.exists, path.absolute().parents))  # its own folder may be what cannot be made
        free = f"{shutil.disk_usage(there).free / 2**20:.1f} MB free"
    except OSError:
        free = "free space unknown"
    needs = f"it needs {size / 2**20:.1f} MB, {free}"
    return f"{printable(str(path))}: cannot be written ({error.strerror or error}); {needs}"


def finite(value: Any) -> Any:
    """The value with every NaN and infinity, at any depth, replaced by None, paths by text, arrays by lists."""
    if hasattr(value, "tolist"):  # numpy's scalars and arrays, tensors
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def to_json(value: Any) -> bytes:
    """Strict JSON: numbers that JSON cannot hold become null."""
    return (json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(
        "utf-8", "backslashreplace"
    )


def read_json(path: Path) -> Any:
    """Reads a JSON file that one of our programs wrote.

    Raises:
        UserError: naming the file, when it is missing or damaged.
    """
    try:
        return json.loads(path.read_bytes().decode())
    except OSError as error:
        raise UserError(f"{printable(str(path))}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{printable(str(path))}: is not valid JSON ({error})") from error


# --- talking ---------------------------------------------------------------------------------------------------------


class _LogFile(logging.FileHandler):
    """A log file that falls silent on a full disk, after saying so once, instead of printing a traceback per line."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)  # a fault of ours: its traceback belongs on the terminal
        else:
            log.removeHandler(self)
            log.warning("%s: cannot be written; logging goes on without it", self.baseFilename)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what a full disk left in the buffer
            super().close()


@contextlib.contextmanager
def logging_to(path: Path | None, stream: str = "stdout") -> Iterator[None]:
    """Sends the project's log to stdout, or to stderr where that is data, and to a file when a path is given.

    Raises:
        TrainingFault: when the file cannot be opened.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(_TerminalStream(stream))]
    handlers[0].setFormatter(logging.Formatter("%(message)s"))
    handlers[0].addFilter(lambda record: not getattr(record, "file_only", False))
    if path is not None:
        try:
            handlers.append(_LogFile(path, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise TrainingFault(_write_failure(path, 0, error)) from error
        handlers[1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
        log.setLevel(before[0])
        log.propagate = before[1]


class _TerminalStream:
    """Log lines that do not tear a progress bar, on whatever sys.stdout or stderr is at the moment of writing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, text: str) -> None:
        from tqdm import tqdm

        if text.strip():
            stream = getattr(sys, self._name)
            encoding = stream.encoding or "utf-8"  # a terminal may know fewer characters than a file name holds
            tqdm.write(text.rstrip("\n").encode(encoding, "backslashreplace").decode(encoding), file=stream)

    def flush(self) -> None:
        getattr(sys, self._name).flush()


def progress(items: Iterable[T], what: str, total: int | None = None, initial: int = 0, unit: str = "it") -> Any:
    """A tqdm bar with rate and time left on a terminal; nothing elsewhere, or where the log is silent."""
    from tqdm import tqdm

    silent = log.disabled or None  # None: unless on a terminal
    return tqdm(items, desc=what, total=total, initial=initial, unit=unit, leave=False, disable=silent)


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_mb(status: Path = Path("/proc/self/status")) -> float:
    """The most memory that this process has held, in units of 2**20 bytes.

    Args:
        status: what Linux says of this process. getrusage counts there what started it, too, until it was replaced.
    """
    if status.exists() and (peak := re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)):
        return int(peak[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
