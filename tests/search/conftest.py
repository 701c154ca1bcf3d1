import re
import shutil
import subprocess
import sys
from subprocess import PIPE

import pytest

import include
from tests.search import slurm_cluster


@pytest.fixture
def stand_in_root(tmp_path):
    """The project with a stand-in for train.py, and without torch."""
    root = tmp_path / "root"
    (root / "training").mkdir(parents=True)
    for name in ("config", "search", "model", "reports"):
        (root / name).symlink_to(include.ROOT / name)
    for name in ("include.py", "utils.py", "search_hyperparams.py", "training/signals.py", "training/__init__.py"):
        shutil.copy(include.ROOT / name, root / name)
    shutil.copy(include.ROOT / "tests" / "search" / "stand_in.py", root / "train.py")
    server = (include.ROOT / "training" / "server.py").read_text()
    found = re.subn(r"(IMPORTED_\w+): Final = \(.*?\)", r"\1: tuple[str, ...] = ()", server, flags=re.DOTALL)
    assert found[1] == 2
    (root / "training" / "server.py").write_text(found[0])
    (root / "training" / "catalogues.py").write_text("def catalogues():\n    return {}\n")
    (root / "training" / "environment.py").write_text("def note_program():\n    pass\n")
    return root


@pytest.fixture
def search():
    """Starts search_hyperparams.py; what still runs at the end of the test is killed."""
    started = []

    def start(parent, data, *options):
        script = [sys.executable, str(include.ROOT / "search_hyperparams.py"), *options]
        where = ["--data_dir", str(data), "--parent_dir", str(parent)]
        started.append(subprocess.Popen([*script, *where], stdout=PIPE, stderr=PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def slurm():
    """The environment of a Slurm of this machine alone, up for the tests."""
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    with slurm_cluster.slurm_cluster() as environment:
        yield environment
