"""Each change that CONTRIBUTING.md shows is made in a copy of the project, where it must work and pass the contract."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import include
from tests.documents import blocks, copy_tree

ADDED = ("lenet", "worst_recall", "poly", "invert", "darkness")  # each found by its name in the contract tests
OTHERS = 3  # a data source, a part of the report, a tracker: shown at work below
TESTS = ("tests/model/test_small_nets.py", "tests/model/test_metric.py", "tests/model/test_loss.py",
         "tests/images/test_augment.py", "tests/reports/test_corruptions.py")  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    target = tmp_path_factory.mktemp("contributing")
    copy_tree(target)
    diffs = [block.text for block in blocks(include.ROOT / "CONTRIBUTING.md") if block.kind == "diff"]
    assert len(diffs) == len(ADDED) + OTHERS
    for diff in diffs:
        subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=target, check=True)
    return target


def run(copy: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_they_pass_the_contract_tests(copy):
    passed = re.findall(r"(\S+) PASSED", run(copy, "-m", "pytest", "-v", "-k", " or ".join(ADDED), *TESTS))
    for name in ADDED:
        assert sum(name in test for test in passed) >= 4, name


def test_they_are_in_good_style(copy):
    files = [line.removeprefix("+++ b/") for block in blocks(include.ROOT / "CONTRIBUTING.md")
             for line in block.text.splitlines() if line.startswith("+++ b/")]  # fmt: skip
    assert len(files) >= 8
    run(copy, "-m", "ruff", "format", "--check", *files)
    run(copy, "-m", "ruff", "check", *files)


def test_they_train_an_experiment(copy):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 784), np.uint8)
    for name in ("apple", "bicycle"):
        (copy / "drawings").mkdir(exist_ok=True)
        np.save(copy / f"drawings/{name}.npy", pixels // (1 + (name == "apple")))
    run(copy, "prepare_data.py", "--source", "quick_draw", "--archive", "drawings", "--out", "data/drawings")
    params = {"arch": "lenet", "pretrain": 0, "im_sz": 28, "channels": 1, "num_epochs": 2, "augment": ["invert"],
              "loss": "poly", "loss_arguments": {"epsilon": 2}, "metrics": ["accuracy", "worst_recall"],
              "best_metric": "worst_recall", "trackers": ["lines"], "about": "drawn by hand"}  # fmt: skip
    (copy / "experiments/added").mkdir()
    (copy / "experiments/added/params.json").write_text(json.dumps(params))
    output = run(copy, "train.py", "--data_dir", "data/drawings", "--model_dir", "experiments/added")
    assert "42 train, 6 valid images of 2 classes" in output
    assert "best worst_recall" in output
    told = [json.loads(line) for line in (copy / "experiments/added/history.jsonl").read_text().splitlines()]
    assert {point["place"] for point in told if "worst_recall" in point["tag"]} == {1, 2}
    evaluated = ("--data_dir", "data/drawings", "--model_dir", "experiments/added", "--split", "valid")
    run(copy, "evaluate.py", *evaluated, "--report", "--attribution", "off", "--robustness", "0")
    assert "drawn by hand" in (copy / "experiments/added/report/index.html").read_text()
    page = run(copy, "-c", "from training.reference import reference; print(reference())")
    assert all(f"| `{name}` |" in page for name in ADDED[:-1])
