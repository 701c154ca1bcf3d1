"""synthesize_results.py as a person calls it."""

import subprocess
import sys

import include
from synthesize_results import main
from tests.search.folders import experiment, grid


def test_writes_and_prints_the_table(tmp_path, capsys):
    grid(tmp_path / "g", seeds=1)
    assert main(["--parent_dir", str(tmp_path / "g")]) == 0
    text = (tmp_path / "g/results.md").read_text()
    assert capsys.readouterr().out == text
    assert "| 0.001 " in text
    assert (tmp_path / "g/results.csv").read_text().count("\n") == 7


def test_bad_input(tmp_path, capsys):
    assert main(["--parent_dir", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'nothing'}: no such folder\n"
    assert main(["--parent_dir", str(tmp_path)]) == 2
    assert "holds no experiment" in capsys.readouterr().err


def test_a_process_of_its_own_without_torch(tmp_path):
    experiment(tmp_path / "a")
    code = "import sys, synthesize_results; r = synthesize_results.main(); sys.exit(r or 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, "--parent_dir", str(tmp_path)]
    done = subprocess.run(command, cwd=include.ROOT, capture_output=True, text=True, check=True)
    assert "Results of" in done.stdout
