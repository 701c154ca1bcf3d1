import io

import numpy as np
import pytest

from config.run_folder import RunFolder
from config.schema import Params
from export.card import model_card
from tests.export.models import contract
from tests.training.runs import experiment

PARAMS = Params(arch="mobilenet_v2", im_sz=160, wd=0.02).model_dump(mode="json")
CONTRACT = contract(name="<b>fruit</b>", classes=["a|b", "bee", "<i>"], provenance={"params": PARAMS})
ENVIRONMENT = {
    "commit": "abc123",
    "packages": {"torch": "2.15.0"},
    "weights": {"source": "torchvision *IMAGENET1K_V1*", "licence": "BSD-3-Clause", "sha256": "f" * 64},
    "data": {"images": {"train": 1200, "valid": 60}, "left_out": {"x.png": "is empty"}, "fingerprint": "0123"},
}
FILES = {"model.onnx": {"bytes": 2_500_000, "about": "ONNX, float32", "sha256": "e" * 64}}


@pytest.fixture
def folder(tmp_path):
    found = RunFolder(experiment(tmp_path / "run"))
    found.write("weights_best.safetensors", b"weights")
    found.write_json("metrics_val_best_weights.json", {"epoch": 3, "loss": 0.5, "accuracy": 0.75, "num_images": 60})
    buffer = io.BytesIO()
    labels = np.repeat([0, 1, 2], 4)
    said = np.array([0, 0, 0, 0, 1, 1, 1, 2, 0, 0, 1, 2])  # all of the first, 3 of 4, 1 of 4
    np.savez(buffer, logits=np.eye(3)[said], labels=labels)
    found.write("predictions_valid.npz", buffer.getvalue())
    return found


def card(folder, **changes):
    return model_card(folder, CONTRACT.model_copy(update=changes), ENVIRONMENT, FILES)


def test_says_what_it_is_made_of(folder):
    text = card(folder)
    for said in (
        "1,200 train, 60 valid images. 1 unreadable images were left out.",
        "`0123`",
        "Project commit `abc123`",
        "licence: BSD-3-Clause",
        "| `wd`",
        "0.02",
        "torch 2.15.0",
        "2.50 MB",
        "resized to 18 pixels and the middle 16 x 16",
    ):
        assert said in text
    assert "`batch_size`" not in text  # the default


def test_names_cannot_break_out(folder):
    text = card(folder)
    assert text.startswith("# \\<b\\>fruit\\</b\\>\n")
    assert "a\\|b, bee, \\<i\\>" in text
    assert "torchvision \\*IMAGENET1K\\_V1\\*" in text


def test_the_worst_classes_come_first(folder):
    text = card(folder)
    assert "least well: \\<i\\> (25% of 4 found), bee (75% of 4 found), a\\|b (100% of 4 found); valid split." in text


def test_metrics_are_those_of_test_once_it_was_evaluated(folder):
    text = card(folder)
    assert "On the valid split, 60 images; it was chosen on these images" in text
    assert "evaluate.py has not been run on the test split" in text
    assert "| accuracy | 0.7500  | 0.6277 to 0.8422 |" in text  # Wilson's, of 45 in 60
    ends = {"accuracy": [0.7, 0.9], "auroc": [None, None]}
    result = {"intervals": ends, "accuracy": 0.8125, "auroc": None, "num_images": 64}
    result |= {"epoch": 3, "trained_on_this_data": True}
    folder.write_json("report/test_best/metrics.json", result | {"epoch": 2})
    assert "evaluate.py has not been run on the test split" in card(folder)  # it was, on an earlier epoch's weights
    folder.write_json("report/test_best/metrics.json", result | {"trained_on_this_data": False})
    assert "On the test split, 64 images, of other data than it was trained with:" in card(folder)
    folder.write_json("report/test_best/metrics.json", result)
    text = card(folder)
    assert "On the test split, 64 images:" in text
    assert "0.8125" in text
    assert "0.7000 to 0.9000" in text
    assert "auroc" not in text


def test_a_temperature_is_told_with_what_it_did(folder):
    assert "no temperature is applied" in card(folder)
    fitted = {"temperature": 1.5, "valid": {"before": {"ece": 0.04}, "after": {"ece": 0.01}}}
    folder.write_json("calibration_best.json", fitted)
    text = card(folder, temperature=1.5)
    assert "divided by 1.5, a temperature fitted on the valid images (expected calibration error there: 0.0400" in text
    assert "from a probability" not in text


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_a_threshold_is_told_with_or_without_a_temperature(folder, temperature):
    text = card(folder, temperature=temperature, threshold=0.8, accuracy_target=0.95)
    assert "from a probability of 0.8000 on, answers were right in 0.95 of the cases" in text


def test_damaged_results_are_as_none(folder):
    folder.file("predictions_valid.npz").write_bytes(b"damaged")
    folder.file("metrics_val_best_weights.json").write_text("{")
    text = card(folder)
    assert "least well" not in text
    assert "On the valid split, 0 images" in text


def test_of_several_classes_each_has_its_recall(folder):
    buffer = io.BytesIO()
    np.savez(buffer, logits=np.array([[1, -1, 1], [1, 1, -1]]), labels=np.array([[1, 1, 0], [1, 1, 0]], np.float32))
    folder.write("predictions_valid.npz", buffer.getvalue())
    text = card(folder, multi_label=True)
    assert "least well: bee (50% of 2 found), a\\|b (100% of 2 found); valid split" in text
    assert "any number of 3 classes" in text


def test_what_corrupted_images_cost_is_told_once_it_was_measured(folder):
    assert "corrupted" not in card(folder)
    area = {"fog": 0.8, "gaussian_noise": 0.2, "jpeg": 0.5, "blur": 0.3}
    found = {"metric": "accuracy", "images": 60, "clean": 0.9, "corrupted": 0.6, "relative": 0.66, "area": area}
    folder.write_json("report/test_best/robustness.json", found)
    metrics = {"epoch": 2, "intervals": {}, "num_images": 60, "trained_on_this_data": True}
    folder.write_json("report/test_best/metrics.json", metrics)
    assert "corrupted" not in card(folder)  # of an earlier epoch's weights
    folder.write_json("report/test_best/metrics.json", metrics | {"epoch": 3})
    text = card(folder)
    assert "On corrupted test images its accuracy falls from 0.9000 to 0.6000 on average" in text
    assert "most under gaussian\\_noise, blur, jpeg." in text
