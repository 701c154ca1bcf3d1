"""The report of a trained experiment: every part is there, every link leads somewhere, and bytes repeat."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import evaluate
import train
from config.run_folder import TEST_LOG, RunFolder
from model.metric import compute
from reports.evaluation import write_tables
from reports.intervals import intervals
from reports.other import Other
from reports.report import PARTS, write_report
from reports.subject import Options
from tests.reports.subjects import made_up
from tests.reports.test_page import Reader
from tests.training.runs import experiment
from training.checkpoint import npz_bytes

LARGEST = 3 * 2**20  # bytes of a page
REPORT = ("--report", "--top_k", "4", "--robustness", "2")
WITHOUT_RUNS = ("--attribution", "off", "--robustness", "0")  # of the net, which other tests look at
ON_DEMAND = ("against", "robustness")  # parts that are left out where nothing asks for them


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    path = experiment(tmp_path_factory.mktemp("report") / "a <b> & c", num_epochs=1)
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(path)]) == 0
    assert evaluate.main(["--data_dir", str(tiny_data), "--model_dir", str(path), *REPORT]) == 0
    return path


def check_page(path):
    """Every link within the page and beside it leads somewhere, no id is there twice, no request is made."""
    read = Reader(path.read_text(encoding="utf-8"))
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for name, attributes in read.elements if name == "a"]
    assert {target[1:] for target in links if target.startswith("#")} <= set(ids)
    assert all((path.parent / target).is_file() for target in links if not target.startswith("#"))
    images = [attributes for name, attributes in read.elements if name == "img"]
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in images)
    assert path.stat().st_size <= LARGEST
    return read


@pytest.mark.parametrize("name", ["index.html", "test_best/index.html"])
def test_the_page_leads_everywhere(trained, name):
    read = check_page(trained / "report" / name)
    sections = [attributes["id"] for element, attributes in read.elements if element == "section"]
    assert sections == [name for name in PARTS if name != "against"]
    assert "a <b> & c" in read.text


def test_every_file_is_in_the_manifest(trained):
    folder = RunFolder(trained)
    files = [path for path in (trained / "report").rglob("*") if path.is_file()]
    assert len(files) >= 10
    assert all(folder.intact(str(path.relative_to(trained))) for path in files)


@pytest.mark.slow
def test_the_same_again_gives_the_same_bytes(trained, tiny_data, tmp_path):
    again = tmp_path / trained.name
    shutil.copytree(trained, again)
    shutil.rmtree(again / "report")
    assert evaluate.main(["--data_dir", str(tiny_data), "--model_dir", str(again), *REPORT]) == 0
    for path in (trained / "report").rglob("*"):
        if path.is_file() and path.suffix != ".npz":
            assert (again / path.relative_to(trained)).read_bytes() == path.read_bytes(), path.name


def test_options_of_the_report_need_the_report(trained, tiny_data, capsys):
    given = {"slices": "x.csv", "robustness": "0", "against": str(trained), "top_k": "24", "attribution": "auto"}
    assert given.keys() == evaluate.OF_THE_REPORT.keys()
    for option, value in given.items():
        assert evaluate.main(["--data_dir", str(tiny_data), "--model_dir", str(trained), f"--{option}", value]) == 2
        assert f"--{option} is for the report: add --report" in capsys.readouterr().err


def test_a_sheet_has_some_images_and_not_too_many(trained, tiny_data, capsys):
    assert evaluate.main(["--data_dir", str(tiny_data), "--model_dir", str(trained), "--report", "--top_k", "0"]) == 2
    assert "--top_k 0: must be 1 to 100" in capsys.readouterr().err


def test_metrics_name_the_images_they_are_of(trained):
    metrics = json.loads((trained / "report/test_best/metrics.json").read_text())
    assert len(metrics["fingerprint"]) == 64


# --- against another experiment ---------------------------------------------------------------------------------------


@pytest.fixture
def other(trained, tmp_path):
    path = tmp_path / "other <experiment>"
    shutil.copytree(trained, path)
    return path


def against(trained, data, other):
    options = ["--data_dir", str(data), "--model_dir", str(trained), "--report", *WITHOUT_RUNS]
    return evaluate.main([*options, "--against", str(other)])


@pytest.mark.slow
def test_what_is_gained_and_lost_and_why(trained, other, tiny_data, tmp_path):
    here = experiment(tmp_path / "here", num_epochs=1, learning_rate=0.0001)
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(here)]) == 0
    assert against(here, tiny_data, other) == 0
    read = check_page(here / "report/test_best/index.html")
    assert "Against other <experiment>" in read.text
    assert {"learning_rate", "num_epochs"} <= set(read.text)
    report = here / "report/test_best"
    ours, theirs = (
        json.loads((path / "report/test_best/metrics.json").read_text())["accuracy"] for path in (here, other)
    )
    changed = {}
    for name in ("gained", "lost"):
        file = report / f"{name}.csv"
        changed[name] = len(file.read_text().splitlines()) - 1 if file.is_file() else 0
    assert changed["gained"] - changed["lost"] == pytest.approx(12 * (ours - theirs))
    row = (report / "against.csv").read_text().splitlines()[1].split(",")
    assert row[0] == "accuracy"
    assert float(row[1]) == pytest.approx(ours - theirs)


def test_nothing_to_compare_with(trained, other, tiny_data, capsys):
    shutil.rmtree(other / "report")
    assert against(trained, tiny_data, other) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "run evaluate.py on it first" in error


def changed_report(other, **changes):
    """Writes the other experiment's outputs anew, with changes."""
    folder = RunFolder(other)
    with np.load(other / "report/test_best/predictions.npz") as stored:
        arrays = dict(stored) | changes.pop("arrays", {})
    metrics = json.loads((other / "report/test_best/metrics.json").read_text()) | changes
    folder.write("report/test_best/predictions.npz", npz_bytes(**arrays))
    folder.write_json("report/test_best/metrics.json", metrics)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"arrays": {"classes": np.array(["ant", "bee"])}}, "its 2 classes are not these 3"),
        ({"arrays": {"paths": np.array(["test/apple/0.jpg", "x"])}}, "it saw 2 images, here are 12; 1 are in both"),
        ({"fingerprint": "0"}, "the same names, but are not the same files"),
    ],
)
def test_other_images_or_classes_are_refused(trained, other, tiny_data, changes, problem, capsys):
    changed_report(other, **changes)
    assert against(trained, tiny_data, other) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert problem in error


# --- slices by a table ------------------------------------------------------------------------------------------------


def test_columns_of_a_table_are_slices(tmp_path):
    subject = made_up(tmp_path, classes=2, images=40)
    rows = [
        f'"{path.replace(chr(34), chr(34) * 2)}",{"old" if i % 4 else "<new>"},{i},{path[-20:]}'
        for i, path in enumerate(subject.paths)
    ]
    table = tmp_path / "more.csv"
    table.write_text("\n".join(["image,<age>,price,code", *rows]) + "\n")
    section = PARTS["slices"](dataclasses.replace(subject, options=Options(slices=table)))
    text = Reader(section.body).text
    assert {"By <age>", "<new>", "old", "By price"} <= set(text)
    assert any("no value is that of 20 images or more: code" in part for part in text)
    lines = section.files["slices.csv"].decode().splitlines()
    assert sum(line.startswith("<age>,") for line in lines) == 2
    assert sum(line.startswith("price,") for line in lines) == 5


def test_a_table_that_is_not_there(trained, tiny_data, capsys):
    """It is refused before the test set is opened."""
    openings = (trained / TEST_LOG).read_bytes()
    options = ["--data_dir", str(tiny_data), "--model_dir", str(trained), "--report", "--slices", "none.csv"]
    assert evaluate.main(options) == 2
    said = capsys.readouterr()
    assert said.err == "none.csv: cannot be read (No such file or directory)\n"
    assert "accuracy" not in said.out
    assert (trained / TEST_LOG).read_bytes() == openings


# --- outputs that say nothing ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("several", "value"), [(False, np.nan), (True, np.inf)])
def test_logits_that_are_not_finite_give_no_number(tmp_path, several, value):
    subject = made_up(tmp_path, classes=3, images=4, several=several)
    logits, losses = subject.logits.copy(), subject.losses.copy()
    logits[0, 0], losses[0] = value, np.nan
    names = [name for name in subject.values if name != "loss"]
    values = compute(names, logits, subject.labels)
    found = intervals(names, logits, subject.labels)
    subject = dataclasses.replace(subject, logits=logits, losses=losses, values=values, intervals=found)
    write_tables(subject)
    made = {name: part(subject) for name, part in PARTS.items() if name != "attribution"}
    assert "not finite" in " ".join(Reader(made["curves"].body).text)
    assert "curves.png" not in made["curves"].files
    assert "not finite" in " ".join(Reader(made["calibration"].body).text)
    rows = made["metrics"].files["metrics.csv"].decode().splitlines()[1:]
    assert {tuple(row.split(",")[1:]) for row in rows} == {("nan", "nan", "nan")}


# --- any number of classes --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "images", "channels", "several"),
    [(2, 1, 1, False), (26, 1, 3, False), (1000, 1, 3, False), (4, 6, 3, True), (2, 1, 1, True)],
    ids=["2 grey images", "26 classes", "1,000 classes", "several classes", "several, 2 grey images"],
)
def test_the_page_stays_usable(tmp_path, classes, images, channels, several):
    subject = made_up(tmp_path, classes, images, channels, several)
    write_tables(subject)
    write_report(subject)
    page = subject.folder.file("report/index.html")
    read = check_page(page)
    sections = [attributes["id"] for element, attributes in read.elements if element == "section"]
    assert sections == [name for name in PARTS if name not in ON_DEMAND]
    if several:
        assert any("may have several" in text for text in read.text)
    else:
        cells = [a["href"] for element, a in read.elements if element == "a" and a["href"].startswith("#cell-")]
        assert len(cells) >= 1


@pytest.mark.slow
def test_the_largest_page_is_no_larger(tmp_path):
    """Everything that can be asked for, of images that do not compress."""
    subject = made_up(tmp_path, classes=25, images=5, side=96)
    order = np.argsort(-subject.logits, axis=1)
    worse = subject.logits.copy()
    np.put_along_axis(worse, order, np.take_along_axis(subject.logits, order[:, ::-1], axis=1), axis=1)
    other = Other(
        subject.folder, subject.params, worse, subject.labels, subject.paths, subject.classes, subject.fingerprint
    )
    subject = dataclasses.replace(subject, options=Options(top_k=100, against=other, robustness=1))
    write_tables(subject)
    write_report(subject)
    page = subject.folder.file("report/index.html")
    read = check_page(page)
    assert [a["id"] for element, a in read.elements if element == "section"] == list(PARTS)
    assert page.stat().st_size > LARGEST / 3
