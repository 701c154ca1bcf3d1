"""The report of a trained experiment: every part is there, every link leads somewhere, and bytes repeat."""

import json
import shutil

import pytest

import evaluate
import train
from config.run_folder import RunFolder
from reports.report import PARTS
from tests.reports.test_page import Reader
from tests.training.runs import experiment

LARGEST = 3 * 2**20  # bytes of a page


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    path = experiment(tmp_path_factory.mktemp("report") / "a <b> & c", num_epochs=2)
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(path)]) == 0
    assert evaluate.main(["--data_dir", str(tiny_data), "--model_dir", str(path), "--report"]) == 0
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


def test_the_same_again_gives_the_same_bytes(trained, tiny_data, tmp_path):
    again = tmp_path / trained.name
    shutil.copytree(trained, again)
    shutil.rmtree(again / "report")
    assert evaluate.main(["--data_dir", str(tiny_data), "--model_dir", str(again), "--report"]) == 0
    for path in (trained / "report").rglob("*"):
        if path.is_file() and path.suffix != ".npz":
            assert (again / path.relative_to(trained)).read_bytes() == path.read_bytes(), path.name


def test_options_of_the_report_need_the_report(trained, tiny_data, capsys):
    for option, value in (("slices", "x.csv"), ("against", str(trained))):
        assert evaluate.main(["--data_dir", str(tiny_data), "--model_dir", str(trained), f"--{option}", value]) == 2
        assert f"--{option} is for the report: add --report" in capsys.readouterr().err


def test_a_sheet_has_some_images_and_not_too_many(trained, tiny_data, capsys):
    assert evaluate.main(["--data_dir", str(tiny_data), "--model_dir", str(trained), "--report", "--top_k", "0"]) == 2
    assert "--top_k 0: must be 1 to 100" in capsys.readouterr().err


def test_metrics_name_the_images_they_are_of(trained):
    metrics = json.loads((trained / "report/test_best/metrics.json").read_text())
    assert len(metrics["fingerprint"]) == 64
