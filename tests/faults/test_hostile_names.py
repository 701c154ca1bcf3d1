"""Names of classes, files and folders made to do harm: none breaks a line, a table or a message."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import evaluate
import include
import train
from config import run_folder
from tests.conftest import write_image
from tests.faults.dirty import QUICK, run, small_data
from tests.training.runs import experiment
from tests.training.test_run import interrupt_at
from utils import printable

TINY = QUICK | {"arch": "shallow"}

NAMES = [
    # markup and formulas
    "<b>bold<b>", "<img src=x onerror=alert(1)>", "<script>alert(1)<script>", "&lt;b&gt;", "javascript:alert(1)",
    '=HYPERLINK("http:evil")', "=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' C'!A0", "\t=1+1", "\r=1+1", "\n=1+1", " =1",
    "a|b", "a`b", "|---|---|", "# title", "* item", "[link](http:x)", "$\\frac{1}{2}$", "$x$", "{{7*7}}", "a;=1+1",
    # lines and control characters
    "a\nb", "a\r\nb", "a\x0bb", "a\x1cb", "a\x85b", "a\u2028b", "a\u2029b", "\n", "\x07", "\x08\x08\x08", "\x7f",
    "2026-01-01 00:00:00,000 ERROR forged", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\u202eoverride", "\u200bnothing",
    # letters, and bytes that are none
    "\udcff", "\udced\udca0\udc80", "\udcc3(", "caf\u00e9", "cafe\u0301", "\u01c5\u0130\u0131\u00df", "\u6f22\u5b57",
    "\u0645\u0631\u062d\u0628\u0627", "\U0001f600", "\U0001d573", "e" + "\u0301" * 20, "\u0436" * 125, "x" * 251,
    "\ufeffmark",
    # what programs take for something else
    "a,b", 'a"b', "a'b", "'", "\\n", "%s%n%d", "%(name)s", "{0.__class__}", "${HOME}", "$(id)", "`id`", "; rm -rf x",
    "&& x", "-rf", "--help", "~", "*", "?", "'; DROP TABLE x;--", "NaN", "null", "None", "true", "1e5", "0x10", "007",
    "0", "_", " ", "  two  ", "CON", "nul.txt", "a.jpg", "labels.csv", "train", "Case", "case", "__class__",
]  # fmt: skip


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A data folder with a class, and in it a file, of each name; and one like it with plain names."""
    root = tmp_path_factory.mktemp("names")
    for folder, names in (("hostile", NAMES), ("plain", [f"class{index:03}" for index in range(len(NAMES))])):
        for index, name in enumerate(names):
            for split in include.SPLITS:
                colour = (index * 2, 255 - index * 2, index * 37 % 256)
                write_image(root / folder / split / name / f"{name}.png", colour, size=(8, 8), format="PNG")
    return root


def lines(path: Path) -> list[str]:
    return path.read_bytes().decode().split("\n")


@pytest.fixture(scope="module")
def through(named, tmp_path_factory):
    """Both data sets through train.py, stopped and continued, and evaluate.py."""
    shown = {}
    for folder in ("hostile", "plain"):
        path = experiment(named / f"run {folder}", **TINY | {"batch_size": 40})
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, 2)
            assert run(train, path, named / folder)[0] == 143
        with pytest.MonkeyPatch.context() as patch:
            if folder == "plain":  # figures take their time
                patch.setattr("training.recorder.plot_history", lambda *_: b"a figure")
                patch.setattr("reports.evaluation.confusion_figure", lambda *_: b"a figure")
            outputs = [run(train, path, named / folder), run(evaluate, path, named / folder)]
        assert [code for code, _ in outputs] == [0, 0]
        shown[folder] = "".join(text for _, text in outputs)
    return shown


def test_the_names_are_many():
    assert len(NAMES) == len(set(NAMES)) >= 50
    assert not any("/" in name or "\0" in name or name.startswith(".") for name in NAMES)


def test_names_stay_what_they_are(named, through):
    path, names = named / "run hostile", sorted(NAMES)
    about = json.loads((path / run_folder.ENVIRONMENT).read_text())["data"]
    assert about["classes"] == names
    with np.load(path / run_folder.PREDICTIONS_VALID) as stored:
        assert stored["classes"].tolist() == names
        assert stored["paths"].tolist() == [f"valid/{name}/{name}.png" for name in names]
        assert stored["labels"].tolist() == list(range(len(names)))


def test_no_name_breaks_a_line(named, through):
    assert len(through["hostile"].splitlines()) == len(through["plain"].splitlines())
    assert len(lines(named / "run hostile" / run_folder.LOG)) == len(lines(named / "run plain" / run_folder.LOG))
    for path in (named / "run hostile").rglob("*"):
        if path.suffix in (".log", ".txt", ".csv", ".json"):
            if path.suffix != ".json":
                assert all(line.isprintable() for line in lines(path)), path.name
            if path.name != "misclassified.csv":  # the two nets are wrong about other images
                plain = named / "run plain" / path.relative_to(named / "run hostile")
                assert len(lines(path)) == len(lines(plain)), path.name


@pytest.mark.parametrize("name", ["confusion_matrix.csv", "misclassified.csv"])
def test_no_cell_is_a_formula(named, through, name):
    with (named / "run hostile/report/test_best" / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) > 1
    assert len({len(row) for row in rows}) == 1
    assert len(lines(named / "run hostile/report/test_best" / name)) == len(rows) + 1  # and the end of the last one
    for row in rows:
        for cell in row:
            assert not cell.startswith(("=", "+", "@", "\t", "\r")), cell
            assert not cell.startswith("-") or float(cell) <= 0


def test_hostile_names_of_the_folders_themselves(tmp_path, capsys):
    for number, name in enumerate(("a\nb", "<b>", "\x1b[2J", "\udcff", "=1+1", "$x$ \U0001f600")):
        data = small_data(tmp_path / str(number) / f"data {name}")
        path = experiment(tmp_path / str(number) / f"run {name}", **TINY)
        assert run(train, path, data)[0] == 0
        for program, folder, place in (
            (train, path, data),
            (evaluate, path, data),
            (train, path / "no", data),
            (train, experiment(tmp_path / str(number) / f"other {name}", **TINY | {"n_clas": 9}), data),
            (train, experiment(tmp_path / str(number) / f"third {name}", **TINY), data / "no"),
        ):
            code, shown = run(program, folder, place)
            assert code in (2, 3)
            assert len(shown.splitlines()) == 1
            assert printable(name) in shown
