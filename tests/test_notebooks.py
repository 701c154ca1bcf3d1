"""The notebooks run from top to bottom, write nothing into the project, and are committed without outputs."""

import json
import subprocess
from pathlib import Path

import pytest

import include

NOTEBOOKS = sorted((include.ROOT / "notebooks").glob("*.ipynb"))


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 4
    listed = (include.ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert all(f"({path.name})" in listed for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_committed_without_outputs_and_are_short(path):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path, "code"))
    assert max(len(cell["source"]) for cell in cells(path, "code")) <= 20
    assert path.stat().st_size < 20_000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_run(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where they make their data and experiments
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    before = status()
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    codes = [output["data"]["text/plain"] for cell in notebook.cells if ".main([" in cell.source
             for output in cell.outputs if output.output_type == "execute_result"]  # fmt: skip
    assert codes == ["0"] * len(codes)
    assert len(codes) == sum(cell.source.count(".main([") for cell in notebook.cells)
    assert sum(bool(cell.get("outputs")) for cell in notebook.cells) >= 4
    assert status() == before


def status():
    done = subprocess.run(["git", "-C", str(include.ROOT), "status", "--porcelain"], capture_output=True, text=True)
    return done.stdout


def test_what_they_link_to_is_there():
    for path in NOTEBOOKS:
        text = "".join("".join(cell["source"]) for cell in cells(path, "markdown"))
        for target in [part.partition(")")[0] for part in text.split("](")[1:]]:
            assert (Path(path).parent / target).exists(), target
