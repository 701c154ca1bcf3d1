"""evaluate.py --calibrate and --accuracy_target: what is fitted, on what, what is kept, and what is refused."""

import json
import shutil

import numpy as np
import pytest

import evaluate
import train
from config.run_folder import PREDICTIONS_VALID, RunFolder
from reports import calibrating
from reports.calibration import measures, nll
from reports.intervals import Interval
from reports.misclassified import probabilities
from tests.reports.test_report import WITHOUT_RUNS, check_page
from tests.training.runs import experiment
from training.checkpoint import npz_bytes


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    path = experiment(tmp_path_factory.mktemp("calibrating") / "trained", num_epochs=2)
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(path)]) == 0
    return path


@pytest.fixture
def model(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "model")


def run(path, data, *options):
    return evaluate.main(["--data_dir", str(data), "--model_dir", str(path), *options])


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def outputs(path):
    with np.load(path) as stored:
        return stored["logits"], stored["labels"]


def mistaken(model):
    """Valid outputs of the best weights in which every third image is wrong; gives them."""
    folder, random = RunFolder(model), np.random.default_rng(0)
    logits, labels = random.normal(size=(300, 3)).astype(np.float32), random.integers(0, 3, 300)
    logits[np.arange(300), labels] += np.where(np.arange(300) % 3 > 0, 4, -1)
    folder.write(PREDICTIONS_VALID, npz_bytes(logits=logits, labels=labels, paths=["x"] * 300, classes=["a", "b", "c"]))
    return logits, labels


def test_temperature_is_fitted_on_valid_kept_and_applied(model, tiny_data, capsys):
    logits, labels = mistaken(model)
    assert run(model, tiny_data) == 0
    assert run(model, tiny_data, "--calibrate") == 0
    found = read(model / "calibration_best.json")
    temperature = found["temperature"]
    assert temperature != 1
    assert nll(logits, labels, temperature) == pytest.approx(
        min(nll(logits, labels, temperature * f) for f in (0.99, 1, 1.01))
    )
    assert found["valid"]["before"]["nll"] == pytest.approx(nll(logits, labels))
    assert found["valid"]["after"]["nll"] < found["valid"]["before"]["nll"]
    assert (found["weights"], found["fitted_on"], found["images"]) == ("best", "valid", 300)
    folder = RunFolder(model)
    assert found["weights_sha256"] == folder.digests()["weights_best.safetensors"]
    assert found["data_fingerprint"] == read(model / "environment.json")["data"]["fingerprint"]
    assert folder.intact("calibration_best.json")

    before, after = (outputs(model / f"report/test_best{how}/predictions.npz") for how in ("", "_calibrated"))
    np.testing.assert_allclose(after[0], before[0] / temperature, rtol=1e-6)
    metrics = [read(model / f"metrics_test_best_weights{how}.json") for how in ("", "_calibrated")]
    assert metrics[0]["accuracy"] == metrics[1]["accuracy"]
    assert metrics[0]["loss"] != metrics[1]["loss"]
    assert metrics[1]["calibration"]["nll"] == pytest.approx(nll(before[0], before[1], temperature), rel=1e-6)
    assert metrics[0]["calibration"]["temperature"] is None
    told = f"temperature {temperature:.4f} (95% interval "
    assert told in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("options", "name"), [(("--weights", "last"), "last"), (("--tta",), "best_tta")])
def test_other_weights_and_views_are_run_over_valid(model, tiny_data, options, name):
    assert run(model, tiny_data, "--split", "valid", *options) == 0
    logits, labels = outputs(model / f"report/valid_{name}/predictions.npz")
    assert run(model, tiny_data, "--calibrate", *options) == 0
    found = read(model / f"calibration_{name}.json")
    assert found["images"] == 12
    assert found["valid"]["before"]["nll"] == pytest.approx(measures(logits, labels)["nll"], rel=1e-5)
    assert (model / f"report/test_{name}_calibrated/metrics.json").is_file()


def test_a_threshold_is_chosen_on_valid_and_kept(model, tiny_data, capsys):
    logits, labels = mistaken(model)
    assert run(model, tiny_data, "--accuracy_target", "0.8") == 0
    found = read(model / "calibration_best.json")
    confidence = probabilities(logits.astype(np.float64) / found["temperature"], False).max(1)
    accepted = confidence >= found["threshold"]
    assert found["accuracy_target"] == 0.8
    assert found["valid"]["accepted"]["accepted"] == accepted.sum()
    assert (logits.argmax(1) == labels)[accepted].mean() > 0.8
    assert "threshold 0." in capsys.readouterr().out
    assert run(model, tiny_data, "--calibrate") == 0
    assert read(model / "calibration_best.json") == found  # what was promised before still is
    assert run(model, tiny_data, "--accuracy_target", "0.999") == 0
    assert "no threshold: however few of the 300 valid images" in capsys.readouterr().out
    assert read(model / "calibration_best.json")["threshold"] is None


def test_a_damaged_file_is_written_anew(model, tiny_data):
    (model / "calibration_best.json").write_text("{")
    assert run(model, tiny_data, "--calibrate") == 0
    assert read(model / "calibration_best.json")["accuracy_target"] is None


def test_damaged_valid_outputs_are_refused(model, tiny_data, capsys):
    (model / "predictions_valid.npz").write_bytes(b"x")
    assert run(model, tiny_data, "--calibrate") == 2
    assert "predictions_valid.npz: damaged" in capsys.readouterr().err
    assert not (model / "calibration_best.json").exists()


def test_without_valid_images(model, tiny_data, tmp_path, capsys):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    shutil.rmtree(data / "valid")
    assert run(model, data, "--calibrate", "--weights", "last") == 2
    said = capsys.readouterr()
    assert "test: " not in said.out  # its images have not been decoded
    assert said.err == f"{data}: has no valid/, on which the temperature is fitted\n"


@pytest.mark.parametrize("target", ["0", "1", "98", "nan"])
def test_impossible_targets(model, tiny_data, target, capsys):
    assert run(model, tiny_data, "--accuracy_target", target) == 2
    assert f"--accuracy_target {target}: must be above 0 and below 1" in capsys.readouterr().err


@pytest.mark.slow
def test_several_labels(tiny_multi_label, tmp_path, capsys):
    path = experiment(tmp_path / "x", num_epochs=1, loss="bce", metrics=["f1"], best_metric="f1")
    assert train.main(["--data_dir", str(tiny_multi_label), "--model_dir", str(path)]) == 0
    assert run(path, tiny_multi_label, "--calibrate", "--report", *WITHOUT_RUNS) == 0
    assert read(path / "calibration_best.json")["images"] == 8
    text = " ".join(check_page(path / "report/index.html").text)
    assert "Confident learning is for one class per image" in text
    assert "each class of each image, there or not" in text
    assert run(path, tiny_multi_label, "--accuracy_target", "0.5") == 2
    assert "is for one class per image" in capsys.readouterr().err


@pytest.mark.slow
def test_the_report_shows_before_and_after(model, tiny_data):
    mistaken(model)
    assert run(model, tiny_data, "--accuracy_target", "0.8", "--report", *WITHOUT_RUNS) == 0
    report = model / "report/test_best_calibrated"
    text = " ".join(check_page(report / "index.html").text)
    assert "test split, best weights, calibrated" in text
    assert "fitted on 300 valid images" in text
    assert b"as trained" in (report / "reliability.csv").read_bytes()
    assert {"reliability.png", "coverage.png", "coverage.csv", "label_errors.csv"} <= {p.name for p in report.iterdir()}


def test_words_where_no_temperature_is_best():
    found = calibrating.Calibration(1, Interval(np.nan, np.nan), 0.9, None, 7, None, "", {})
    lines = calibrating.told(found, np.eye(3), np.arange(3), "test")
    assert lines[0].startswith("no temperature is best for 7 valid images")
    assert lines[1].startswith("no threshold")
