"""What a run was made with: versions, machine, commit and the sources of the net."""

import hashlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

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


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, device, processor, threads, command line and commit."""
    gpu = device.type == "cuda"
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "cuda": torch.version.cuda if gpu else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def process() -> dict[str, Any]:
    """This process, as status.json names it."""
    return {"pid": os.getpid(), "host": platform.node(), "started": datetime.now(UTC).isoformat(timespec="seconds")}


def sources(folder: RunFolder) -> dict[str, bytes]:
    """The sources a run is made of, by their names in code/, and what is not committed of them as code.diff."""
    files = [path for part in SOURCES for path in sorted((include.ROOT / part).glob("*.py"))]
    found = {
        path.relative_to(include.ROOT): path
        for path in (*files, include.ROOT / "include.py", include.ROOT / "utils.py")
    }
    if (own := folder.file(run_folder.NET)).is_file():
        found[Path(run_folder.NET)] = own
    diff = (_git("diff", "HEAD", "--", "*.py") or "").encode()[:DIFF_LIMIT]
    return {f"{run_folder.CODE}/{name}": path.read_bytes() for name, path in found.items()} | {
        run_folder.CODE_DIFF: diff
    }


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
    return done.stdout.strip() if done.returncode == 0 else None
