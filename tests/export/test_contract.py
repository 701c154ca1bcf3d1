import json

import pytest

from config.run_folder import RunFolder
from export.contract import KEY, Contract, Fitted, fitted
from tests.export.models import contract
from tests.training.runs import experiment
from utils import UserError


def test_survives_the_way_through_metadata():
    given = contract(classes=["=ä", "b\n", "</script>"], temperature=1.7, threshold=0.75, accuracy_target=0.9)
    assert Contract.from_metadata(given.to_metadata(), "model") == given
    assert given.to_metadata()[KEY].isascii()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", ["one"]),
        ("channels", 2),
        ("im_sz", "16"),
        ("std", [0.2, 0.3, 0.0]),
        ("mean", [0.5]),
        ("background", [256, 0, 0]),
        ("resize", "stretch"),
        ("temperature", 0.0),
        ("threshold", 1.5),
        ("accuracy_target", 1.0),
        ("max_megapixels", float("inf")),
        ("weights_sha256", "abc"),
        ("precision", "int4"),
        ("unknown", 1),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(key, value):
    text = json.dumps(json.loads(contract().to_metadata()[KEY]) | {key: value})
    with pytest.raises(UserError, match="what it says of itself cannot be used") as caught:
        Contract.from_metadata({KEY: text}, "some.onnx")
    assert "\n" not in str(caught.value)


def test_what_was_fitted_counts_for_its_own_weights(tmp_path):
    folder = RunFolder(experiment(tmp_path / "run"))
    folder.write("weights_best.safetensors", b"weights")
    assert fitted(folder, "best") == Fitted(1, None, None)
    kept = {"temperature": 1.8, "threshold": 0.9, "accuracy_target": 0.95}
    kept["weights_sha256"] = folder.digests()["weights_best.safetensors"]
    folder.write_json("calibration_best.json", kept)
    assert fitted(folder, "best") == Fitted(1.8, 0.9, 0.95)
    assert fitted(folder, "last") == Fitted()
    folder.write("weights_best.safetensors", b"others")
    assert fitted(folder, "best") == Fitted()


def test_a_target_that_no_threshold_reached_is_none(tmp_path):
    folder = RunFolder(experiment(tmp_path / "run"))
    folder.write("weights_best.safetensors", b"weights")
    kept = {"temperature": 1.8, "threshold": None, "accuracy_target": 0.999}
    kept["weights_sha256"] = folder.digests()["weights_best.safetensors"]
    folder.write_json("calibration_best.json", kept)
    assert fitted(folder, "best") == Fitted(1.8)
