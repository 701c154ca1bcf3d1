"""plot_results.py as a person calls it."""

import subprocess
import sys

import include
from plot_results import main
from tests.search.folders import grid


def test_names_what_it_draws(tmp_path, capsys):
    grid(tmp_path, seeds=1, epochs=2)
    assert main(["--parent_dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == sorted(printed, key=printed.index)
    assert f"{tmp_path}/history_plots.png" in printed
    assert set(printed) == {str(path) for path in tmp_path.glob("*.png")}


def test_bad_input(tmp_path, capsys):
    assert main(["--parent_dir", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'nothing'}: no such folder\n"


def test_a_process_of_its_own_without_torch(tmp_path):
    grid(tmp_path, seeds=1, epochs=2)
    code = "import sys, plot_results; r = plot_results.main(); sys.exit(r or 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, "--parent_dir", str(tmp_path)]
    subprocess.run(command, cwd=include.ROOT, check=True, capture_output=True)
