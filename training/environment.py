"""What a run was made with: versions, machine, commit and the sources of the net."""

import hashlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

import include
from config import run_folder
from config.run_folder import RunFolder
from utils import log

PACKAGES: Final = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pandas",
    "pillow",
    "pydantic",
    "scikit-learn",
    "safetensors",
)
SOURCES: Final = ("config", "images", "model", "training")
DIFF_LIMIT: Final = 2**20  # bytes of code.diff that are kept


class Program(NamedTuple):
    """What a run is made with, as far as it is in files.

    Attributes:
        packages: versions by name.
        commit: of this project; None where there is no git, or no repository.
        dirty: whether there are changes that are not committed.
        sources: this project's, by path.
        diff: what is not committed of them.
    """

    packages: dict[str, str]
    commit: str | None
    dirty: bool
    sources: dict[str, bytes]
    diff: bytes


_noted: list[Program] = []


def program() -> Program:
    """The program as it was noted, or else as it is now."""
    if _noted:
        return _noted[0]
    files = [path for part in SOURCES for path in sorted((include.ROOT / part).glob("*.py"))]
    files += [include.ROOT / "include.py", include.ROOT / "utils.py"]
    return Program(
        packages={name: found for name in PACKAGES if (found := _version(name)) is not None},
        commit=(_git("rev-parse", "HEAD") or "").strip() or None,
        dirty=bool(_git("status", "--porcelain", "--untracked-files=no")),
        sources={str(path.relative_to(include.ROOT)): path.read_bytes() for path in files},
        diff=(_git("diff", "--no-color", "--no-ext-diff", "HEAD", "--", "*.py") or "").encode()[:DIFF_LIMIT],
    )


def note_program() -> None:
    """For a process that has imported the program, and will fork trainings: they run it as it is now, and say so."""
    _noted[:] = [program()]


def describe(device: torch.device, made_with: Program) -> dict[str, Any]:
    """Versions, device, processor, threads, command line and commit."""
    gpu = device.type == "cuda"
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": made_with.packages,
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "cuda": torch.version.cuda if gpu else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": made_with.commit,
        "dirty": made_with.dirty,
    }


def process() -> dict[str, Any]:
    """This process, as status.json names it."""
    return {"pid": os.getpid(), "host": platform.node(), "started": datetime.now(UTC).isoformat(timespec="seconds")}


def sources(folder: RunFolder, made_with: Program) -> dict[str, bytes]:
    """The sources a run is made of, by their names in code/, and what is not committed of them as code.diff."""
    found = dict(made_with.sources)
    if (own := folder.file(run_folder.NET)).is_file():
        found[run_folder.NET] = own.read_bytes()
    return {f"{run_folder.CODE}/{name}": data for name, data in found.items()} | {run_folder.CODE_DIFF: made_with.diff}


def warn_of_changed_sources(folder: RunFolder) -> None:
    """Says once which of the net's sources are no longer what the run was trained with."""
    kept = folder.file(run_folder.CODE)
    changed = [
        path.name
        for path in sorted((kept / "model").glob("*.py"))
        if _digest(path) != _digest(include.ROOT / "model" / path.name)
    ]
    if changed:
        log.warning(
            "%s: the project's %s changed since this run; its own copies are kept there", kept, ", ".join(changed)
        )


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git prints; None where there is no git, or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(include.ROOT), *arguments], capture_output=True, text=True, errors="replace", timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
