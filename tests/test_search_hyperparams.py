"""The script: its command line, its exit codes, and one true search."""

import json
import shutil
import subprocess
import sys

import pytest

import include
import search_hyperparams
from config.run_folder import RunFolder
from search import run
from tests.search.searches import search_folder
from utils import BusyError, UserError


def search(parent, data, *options):
    return search_hyperparams.main(["--data_dir", str(data), "--parent_dir", str(parent), *options])


def test_bad_input_is_told_in_one_line(tiny_data, tmp_path, capsys):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, -1]})
    assert search(parent, tiny_data) == 2
    assert "hyper_search: learning_rate=-1" in capsys.readouterr().err
    assert search(parent, tiny_data, "--method", "gird") == 2
    assert 'did you mean "grid"' in capsys.readouterr().err
    assert search(tmp_path / "nowhere", tiny_data) == 2
    assert search(parent, tiny_data, "--gpus", ",") == 2
    search_folder(parent, {"learning_rat": [0.01]})
    assert search(parent, tiny_data) == 2
    assert 'did you mean "learning_rate"' in capsys.readouterr().err
    assert sorted(path.name for path in parent.iterdir()) == [".lock", "params.json"]


def test_a_search_is_planned_by_one_process_at_a_time(tiny_data, tmp_path, monkeypatch, capsys):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01]})

    def make_plan(path, overrides):
        with pytest.raises(BusyError):
            RunFolder(path).lock()
        raise UserError("planned alone")

    monkeypatch.setattr(run, "make_plan", make_plan)
    assert search(parent, tiny_data) == 2
    assert capsys.readouterr().err == "planned alone\n"
    RunFolder(parent).lock()  # it is free again


def test_help_lists_what_can_be_overridden(capsys):
    with pytest.raises(SystemExit):
        search_hyperparams.main(["--help"])
    words = capsys.readouterr().out
    assert all(f"--{key} " in words for key in ("trials", "seeds", "metric", "hours", "retries", "keep_weights"))


@pytest.mark.slow
def test_a_search_from_start_to_tables(tiny_data, tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01], "arch": ["conv", "shalow"]})
    command = [sys.executable, str(include.ROOT / "search_hyperparams.py"), "--gpus", "cpu", "--jobs", "1"]
    command += ["--data_dir", str(tiny_data), "--parent_dir", str(parent)]
    refused = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        'hyper_search: arch="shalow": arch is "shalow", which is not known; did you mean "shallow"?'
    ]
    data = shutil.copytree(tiny_data, tmp_path / "data")
    command[command.index(str(tiny_data))] = str(data)
    search_folder(parent, {"learning_rate": [0.01, 1e30]}, cache="auto")
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 1, found.stderr
    assert found.stderr == ""
    first, second = (json.loads((parent / f"learning_rate_{n}" / "status.json").read_text())
                     for n in ("0.01", "1" + "0" * 30))  # fmt: skip
    assert first["state"] == "finished"
    assert (second["state"], second["reason"]) == ("failed", "diverged")
    assert "learning_rate_0.01: finished, accuracy" in found.stdout
    assert len(list((data / ".cache").glob("train-*/pixels.bin"))) == 1
    logs = [log.read_text() for log in parent.glob("*/train.log")]
    assert len(logs) == 2
    assert all("train: 24 decoded images, disk" in log for log in logs)
    assert (parent / "results.csv").is_file()
    assert (parent / "results.md").is_file()
