"""What a training that was disturbed, and then continued by the same command, must leave."""

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from config import run_folder
from config.run_folder import RunFolder
from tests.faults.server import Ended, Plant, Server
from tests.training.runs import experiment, outcome

VARYING = {run_folder.LOCK, run_folder.LOG, ".cache/fingerprint.json"}  # may be there or not


def names(folder: Path) -> set[str]:
    """All files below a folder."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def fresh(path: Path, **changes) -> Path:
    """An experiment folder, in the place of the one before."""
    shutil.rmtree(path, ignore_errors=True)
    return experiment(path, **changes)


def differences(path: Path, reference: Path) -> list[str]:
    """In what a finished run differs from an undisturbed one; empty when in nothing."""
    found, expected = outcome(path), outcome(reference)
    result = [f"{name} differs" for name in expected if found[name] != expected[name]]
    result += [f"{name} is left over or missing" for name in (names(path) ^ names(reference)) - VARYING]
    folder = RunFolder(path)
    result += [f"{name} is not what the manifest says" for name in folder.digests() if not folder.intact(name)]
    if (state := folder.status().get("state")) != "finished":
        result.append(f"the state is {state}")
    return result


def overwrite(server: Server, data: Path, path: Path, reference: Path, plants: Sequence[Plant]) -> Ended:
    """Trains anew over a copy of a finished run, of whose files none must be lost."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(reference, path)
    ended = server.train(path, data, "--overwrite", plants=plants)
    assert _contents(reference) <= _contents(path)
    return ended


def _contents(path: Path) -> Counter[str]:
    """sha256 of all files below a folder but the lock."""
    files = (p for p in path.rglob("*") if p.is_file() and p.name != run_folder.LOCK)
    return Counter(hashlib.sha256(p.read_bytes()).hexdigest() for p in files)


def told(numbers: Sequence[int], harness: object, say: Callable[[str], None]) -> Iterator[int]:
    """The numbers one by one; says now and then how far a harness is with them."""
    for done, number in enumerate(numbers, 1):
        yield number
        if done % 50 == 0:
            say(f"{done} of {len(numbers)}: {harness}")


def sample(labels: list[str], count: int) -> list[int]:
    """Numbers of boundaries: one each of so many kinds, a kind being an operation on a file."""
    kinds: dict[str, int] = {}
    order = list(enumerate(labels, 1))
    random.Random(0).shuffle(order)
    for number, label in order:
        kinds.setdefault("a source" if "/code/" in label else label, number)
    return list(kinds.values())[:count]
