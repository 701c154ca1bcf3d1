import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.faults.server import Server


@pytest.fixture(scope="session")
def place():
    """A folder for experiments, in memory where that is possible; what is left in it goes."""
    memory = Path("/dev/shm")
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    with tempfile.TemporaryDirectory(prefix="dossier-faults-", dir=memory if roomy else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def server(place):
    started = Server(place)
    yield started
    started.close()


@pytest.fixture(scope="session")
def data(tiny_data, place):
    """Images whose time of change is long enough ago for their fingerprint to be remembered."""
    copied = shutil.copytree(tiny_data, place / "data")
    time.sleep(2.1)
    return copied


@pytest.fixture
def say(capsys):
    """Prints a harness's counts, whatever pytest captures."""

    def counted(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}", file=sys.stderr, flush=True)  # where pytest-xdist shows it too

    return counted
