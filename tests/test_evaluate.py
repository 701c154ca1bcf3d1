import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import evaluate
import include
import train
from config.run_folder import TTA, RunFolder
from tests.training.runs import experiment
from training.evaluation import VIEWS


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    path = experiment(tmp_path_factory.mktemp("evaluate") / "trained", num_epochs=4)
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(path)]) == 0
    return path


@pytest.fixture
def model(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "model")
    return tmp_path / "model"


def run(path, data, *options):
    return evaluate.main(["--data_dir", str(data), "--model_dir", str(path), *options])


def test_writes_metrics_and_reports(model, tiny_data, capsys):
    assert run(model, tiny_data) == 0
    metrics = json.loads((model / "metrics_test_best_weights.json").read_text())
    assert metrics["num_images"] == 12
    assert metrics["trained_on_this_data"] is True
    assert set(metrics["intervals"]) == {"loss", *(name for name in metrics if name in metrics["intervals"])}
    low, high = metrics["intervals"]["accuracy"]
    assert low <= metrics["accuracy"] <= high
    report = model / "report" / "test_best"
    assert {p.name for p in report.iterdir()} == {
        "classification_report.txt",
        "confusion_matrix.csv",
        "confusion_matrix.png",
        "metrics.json",
        "misclassified.csv",
        "predictions.npz",
    }
    output = capsys.readouterr().out
    assert "accuracy" in output
    assert "opened 1 time for" in output
    assert all(RunFolder(model).intact(name) for name in RunFolder(model).digests())


def test_agrees_with_the_files_it_writes(model, tiny_data):
    assert run(model, tiny_data, "--weights", "last") == 0
    report = model / "report" / "test_last"
    with np.load(report / "predictions.npz") as stored:
        logits, labels, paths = stored["logits"], stored["labels"], stored["paths"]
    wrong = {str(p) for p in paths[logits.argmax(1) != labels]}
    rows = list(csv.DictReader((report / "misclassified.csv").read_text().splitlines()))
    assert {row["path"] for row in rows} == wrong
    accuracy = json.loads((report / "metrics.json").read_text())["accuracy"]
    assert accuracy == pytest.approx(1 - len(wrong) / 12)
    matrix = np.array(
        [row[1:] for row in csv.reader((report / "confusion_matrix.csv").read_text().splitlines())][1:], int
    )
    assert matrix.trace() == 12 - len(wrong)
    assert matrix.sum() == 12


def test_best_on_valid_is_what_training_measured(model, tiny_data):
    assert run(model, tiny_data, "--split", "valid") == 0
    during = json.loads((model / "metrics_val_best_weights.json").read_text())
    after = json.loads((model / "report/valid_best/metrics.json").read_text())
    assert after["accuracy"] == during["accuracy"]
    assert after["loss"] == pytest.approx(during["loss"], rel=1e-5)
    assert after["epoch"] == during["epoch"]
    assert not (model / "test_set_openings.json").exists()


def test_counts_how_often_the_test_set_was_opened(model, tiny_data, capsys):
    for _ in range(2):
        assert run(model, tiny_data) == 0
    assert run(model, tiny_data, "--tta") == 0
    assert "opened 3 times" in capsys.readouterr().out
    openings = json.loads((model / "test_set_openings.json").read_text())
    assert [entry["tta"] for entry in openings] == [None, None, "mirror"]
    assert (model / "metrics_test_best_weights_tta.json").is_file()


def test_an_opening_is_counted_before_a_number_can_be_seen(model, tiny_data, monkeypatch):
    def stopped(subject):
        raise KeyboardInterrupt

    monkeypatch.setattr("reports.evaluation.write_tables", stopped)
    assert run(model, tiny_data) == 130
    assert len(json.loads((model / "test_set_openings.json").read_text())) == 1
    assert not list(model.glob("metrics_test*"))


@pytest.mark.parametrize(("views", "name"), [(["mirror"], "tta"), (["shift"], "tta_shift")])
def test_tta_averages_probabilities(model, tiny_data, views, name):
    assert run(model, tiny_data) == 0
    assert run(model, tiny_data, "--tta", *views) == 0
    with (
        np.load(model / "report/test_best/predictions.npz") as one,
        np.load(model / f"report/test_best_{name}/predictions.npz") as two,
    ):
        assert not np.allclose(one["logits"], two["logits"])
        assert np.allclose(np.exp(two["logits"]).sum(1), 1, atol=1e-5)


def test_views_are_mirrored_and_shifted():
    images = torch.arange(2 * 32 * 64.0).view(1, 2, 32, 64)
    assert VIEWS.keys() == TTA.keys()
    assert VIEWS[None] == ()
    mirror, down, up, mirror_down, mirror_up = VIEWS["shift"]
    assert torch.equal(mirror(images), images.flip(-1))
    assert torch.equal(down(images)[..., 1:, 2:], images[..., :-1, :-2])
    assert torch.equal(down(images)[..., 0, 2:], images[..., 1, :-2])  # reflected at the edge
    assert torch.equal(up(images)[..., :-1, :-2], images[..., 1:, 2:])
    assert torch.equal(mirror_down(images), down(images.flip(-1)))
    assert torch.equal(mirror_up(images), up(images.flip(-1)))


def test_other_classes_are_refused(model, tiny_data, tmp_path, capsys):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    for split in include.SPLITS:
        (data / split / "bee").rename(data / split / "wasp")
    assert run(model, data) == 2
    error = capsys.readouterr().err
    assert "(missing: bee; unknown: wasp)" in error
    assert not (model / "metrics_test_best_weights.json").exists()


def test_other_files_are_said_and_recorded(model, tiny_data, tmp_path, capsys):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    (data / "train" / "bee" / "1.png").unlink()
    assert run(model, data) == 0
    assert "not the files" in capsys.readouterr().out
    assert json.loads((model / "metrics_test_best_weights.json").read_text())["trained_on_this_data"] is False


def test_without_a_test_split(model, tiny_data, tmp_path, capsys):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    shutil.rmtree(data / "test")
    assert run(model, data) == 2
    assert "has no test/" in capsys.readouterr().err


def test_an_untrained_folder(tiny_data, tmp_path, capsys):
    path = experiment(tmp_path / "x")
    assert run(path, tiny_data) == 2
    assert "run train.py" in capsys.readouterr().err


def test_damaged_weights(model, tiny_data, capsys):
    weights = model / "weights_best.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    assert run(model, tiny_data) == 2
    assert "weights_best.safetensors: damaged" in capsys.readouterr().err


def test_own_net_is_built_from_the_copy_that_was_trained(tiny_data, tmp_path):
    path = experiment(tmp_path / "own", arch="net.py", num_epochs=1)
    (path / "net.py").write_text(
        "from torch import nn\n"
        "def build_net(params, num_classes):\n"
        "    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)]\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *head)\n"
    )
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(path)]) == 0
    (path / "net.py").write_text("raise SystemExit('the edited net.py ran')")
    assert run(path, tiny_data) == 0


def test_multi_label_data(tiny_multi_label, tmp_path):
    path = experiment(tmp_path / "x", loss="bce", metrics=["accuracy", "f1", "auroc"], num_epochs=2)
    assert train.main(["--data_dir", str(tiny_multi_label), "--model_dir", str(path)]) == 0
    assert run(path, tiny_multi_label) == 0
    metrics = json.loads((path / "metrics_test_best_weights.json").read_text())
    assert {"accuracy", "f1", "auroc", "average_precision"} <= set(metrics)
    assert "top_3" not in metrics  # one class per image only


@pytest.mark.slow
def test_as_programs(tiny_data, tmp_path):
    path = experiment(tmp_path / "x", num_epochs=1)
    for script in ("train.py", "evaluate.py"):
        command = [sys.executable, include.ROOT / script, "--data_dir", tiny_data, "--model_dir", path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    assert (path / "metrics_test_best_weights.json").is_file()
    done = subprocess.run([*command[:-1], tmp_path / "absent"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
