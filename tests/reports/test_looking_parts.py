"""The two parts of the report that run the net anew: where it looks, and how it bears corrupted images."""

import csv
import json
import shutil

import numpy as np
import pytest

import evaluate
import train
from config.run_folder import RunFolder
from reports.attribution import AUTO, METHODS
from reports.attribution_part import OFF
from tests.reports.test_report import check_page
from tests.training.runs import experiment


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    path = experiment(tmp_path_factory.mktemp("looking") / "x", num_epochs=1, resize="squash")
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(path)]) == 0
    return path


def report(path, data, *options):
    return evaluate.main(["--data_dir", str(data), "--model_dir", str(path), "--report", *options])


def test_the_choice_of_methods_is_that_of_the_table():
    assert list(evaluate.ATTRIBUTION) == [AUTO, *METHODS, OFF]


def test_both_parts(trained, tiny_data, tmp_path, capsys):
    path = shutil.copytree(trained, tmp_path / "x")
    assert report(path, tiny_data, "--robustness", "6", "--top_k", "7") == 0
    assert "corrupting 6 images in 95 ways; --robustness 0 leaves it out" in capsys.readouterr().out
    read = check_page(path / "report/index.html")
    text = " ".join(read.text)
    assert {"attribution", "robustness"} <= {a["id"] for name, a in read.elements if name == "section"}
    where = path / "report/test_best"
    summary = json.loads((where / "robustness.json").read_text())
    assert summary["images"] == 6
    assert f"On 6 images, of each class its share: accuracy {summary['clean']:.4f}" in text
    assert len(summary["area"]) == 16
    rows = list(csv.DictReader((where / "attribution.csv").read_text().splitlines()))
    assert len(rows) == 7
    assert {row["method"] for row in rows} == {"grad_cam"}
    assert "On these 7 images the maps" in text
    with np.load(where / "predictions.npz") as stored:
        right = dict(zip(stored["paths"].tolist(), stored["logits"].argmax(1) == stored["labels"], strict=True))
    wrong = [row for row in rows if not right[row["path"]]]
    assert wrong == rows[: len(wrong)]  # mistakes first
    assert len(wrong) == min(sum(not value for value in right.values()), 7 - min(sum(right.values()), 2))
    assert all(row["explained"] == row["predicted"] for row in rows)
    assert all(RunFolder(path).intact(name) for name in RunFolder(path).digests())


def test_parts_that_were_not_asked_for(trained, tiny_data, tmp_path, capsys):
    path = shutil.copytree(trained, tmp_path / "x")
    assert report(path, tiny_data, "--attribution", OFF, "--robustness", "0") == 0
    sections = {a["id"] for name, a in check_page(path / "report/index.html").elements if name == "section"}
    assert not sections & {"attribution", "robustness"}
    assert report(path, tiny_data, "--robustness", "-1") == 2
    assert "--robustness -1: must be 0 to 100000" in capsys.readouterr().err


@pytest.fixture(scope="module")
def grey(tiny_multi_label, tmp_path_factory):
    values = {"arch": "shallow", "loss": "bce", "channels": 1, "metrics": ["accuracy", "f1"], "best_metric": "f1"}
    path = experiment(tmp_path_factory.mktemp("grey") / "x", num_epochs=1, **values)
    assert train.main(["--data_dir", str(tiny_multi_label), "--model_dir", str(path)]) == 0
    return path


@pytest.mark.slow
def test_several_classes_per_image_in_grey_by_occlusion(grey, tiny_multi_label, tmp_path):
    path = shutil.copytree(grey, tmp_path / "x")
    assert report(path, tiny_multi_label, "--robustness", "8", "--top_k", "8") == 0
    text = " ".join(check_page(path / "report/index.html").text)
    rows = list(csv.DictReader((path / "report/test_best/attribution.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == {"occlusion"}
    assert len(rows) == 8
    assert any(word in text for word in ("is there", "is not there"))
    assert "the inside of the net was not looked at" in text
    summary = json.loads((path / "report/test_best/robustness.json").read_text())
    assert summary["metric"] == "f1"
    assert set(summary["area"]) >= {"fog"}
    assert "saturation" not in summary["area"]


@pytest.mark.slow
def test_a_method_that_the_net_cannot_have(grey, tiny_multi_label, tmp_path, capsys):
    path = shutil.copytree(grey, tmp_path / "x")
    assert report(path, tiny_multi_label, "--attribution", "grad_cam", "--robustness", "0") == 2
    assert "grad_cam: this net has no feature map; use one of auto, occlusion" in capsys.readouterr().err
