import logging

import pytest

from config.run_folder import RunFolder
from export.choice import choose
from tests.export.models import contract, model
from tests.training.runs import experiment
from utils import UserError


@pytest.fixture
def folder(tmp_path):
    """An experiment with weights and an export of them; nothing was trained."""
    found = RunFolder(experiment(tmp_path / "run"))
    found.write("weights_best.safetensors", b"weights")
    found.write("export/model.onnx", model(contract(weights_sha256=found.digests()["weights_best.safetensors"])))
    return found


def test_the_export_of_the_weights_answers(folder):
    assert choose(folder.path, False).contract.name == "tiny"
    assert choose(folder.file("export/model.onnx"), False).contract.name == "tiny"


def test_of_other_weights_it_does_not(folder, caplog):
    folder.write("weights_best.safetensors", b"trained anew")
    with pytest.raises(UserError, match="holds no trained model"):  # PyTorch is asked
        choose(folder.path, False)
    assert "export/model.onnx: is not of the best weights; PyTorch answers" in caplog.text


def test_a_damaged_export_does_not_answer(folder):
    path = folder.file("export/model.onnx")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="holds no trained model"):
        choose(folder.path, False)


@pytest.mark.parametrize("changes", [{"temperature": 1.8}, {"threshold": 0.9, "accuracy_target": 0.95}])
def test_an_export_older_than_the_calibration_says_so(folder, changes, caplog):
    kept = {"temperature": 1.0, "threshold": None, "accuracy_target": None} | changes
    folder.write_json("calibration_best.json", kept | {"weights_sha256": folder.digests()["weights_best.safetensors"]})
    with caplog.at_level(logging.WARNING):
        assert choose(folder.path, False).contract.temperature == 1
    assert "is older than the calibration of these weights; export it anew" in caplog.text
