import json

import pytest

from config.run_folder import RunFolder
from export.contract import KEY, Contract, fitted_temperature
from tests.export.models import contract
from tests.training.runs import experiment
from utils import UserError


def test_survives_the_way_through_metadata():
    given = contract(classes=["=ä", "b\n", "</script>"], temperature=1.7)
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


def test_a_temperature_counts_for_the_weights_it_was_fitted_for(tmp_path):
    folder = RunFolder(experiment(tmp_path / "run"))
    folder.write("weights_best.safetensors", b"weights")
    assert fitted_temperature(folder, "best") == 1
    fitted = {"temperature": 1.8, "weights_sha256": folder.digests()["weights_best.safetensors"]}
    folder.write_json("calibration_best.json", fitted)
    assert fitted_temperature(folder, "best") == 1.8
    assert fitted_temperature(folder, "last") == 1
    folder.write("weights_best.safetensors", b"others")
    assert fitted_temperature(folder, "best") == 1
