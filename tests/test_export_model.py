import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import onnxruntime
import pytest
from safetensors.torch import load_file

import export_model
import include
import train
from config.run_folder import RunFolder
from config.schema import Params
from export.predictor import Predictor
from model.net import build_net
from tests.training.runs import experiment

PARITY = ("max_difference_of_probabilities", "max_difference_of_logits", "other_classes")


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    path = experiment(tmp_path_factory.mktemp("export_model") / "<trained> & true", num_epochs=2)
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def exported(trained, tiny_data, tmp_path_factory):
    """A copy of the experiment, exported in every way."""
    path = tmp_path_factory.mktemp("exported") / "experiment"
    shutil.copytree(trained, path)
    assert run(path, tiny_data, "--format", "onnx", "pt2", "safetensors", "--int8") == 0
    return path


def run(path, data, *options):
    return export_model.main(["--data_dir", str(data), "--model_dir", str(path), *options])


@pytest.mark.slow
def test_writes_what_it_says_and_only_what_passed(exported):
    folder, names = RunFolder(exported), {path.name for path in (exported / "export").iterdir()}
    report = json.loads((exported / "export/export.json").read_text())
    # 12 valid images cannot show that int8 loses less than 1.5 points, so that there is no model.int8.onnx
    assert names == {"model.onnx", "model.pt2", "model.safetensors", "model.json", "export.json", "MODEL.md"}
    assert all(folder.intact(f"export/{name}") for name in names)
    assert set(report["files"]) == names - {"export.json", "MODEL.md"}
    for name in ("model.onnx", "model.pt2", "model.safetensors"):
        found = report["files"][name]
        assert found["parity"]["images"] == 12
        assert all(found["parity"][key] <= 1e-5 for key in PARITY)
        assert found["bytes"] == (exported / "export" / name).stat().st_size
    assert report["recommended"] == "model.onnx"
    assert "more images would tell" in report["because"]
    assert report["int8"]["images"] == 12
    assert report["int8"]["good_enough"] is False
    assert {"pytorch", "float32", "int8"} == set(report["milliseconds"]["1"])
    assert {"torch", "onnxruntime"} <= set(report["versions"])


@pytest.mark.slow
def test_the_graph_stands_on_its_own(exported, tiny_data):
    """Three lines of Python, as MODEL.md has them."""
    card = (exported / "export/MODEL.md").read_text(encoding="utf-8")
    photo = tiny_data / "valid/bee/1.png"
    code = card.partition("```python\n")[2].partition("```")[0]
    assert len(code.strip().splitlines()) == 3
    code = code.replace('"photo.jpg"', repr(str(photo))).replace(
        '"model.onnx"', repr(str(exported / "export/model.onnx"))
    )
    found: dict[str, np.ndarray] = {}
    exec(code, found)
    session = onnxruntime.InferenceSession(exported / "export/model.onnx", providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert (entry.name, entry.shape, entry.type) == ("images", ["batch", "height", "width", 3], "tensor(uint8)")
    assert [output.shape for output in session.get_outputs()] == [["batch", 3], ["batch", 3]]
    assert json.loads(session.get_modelmeta().custom_metadata_map["dossier"])["classes"] == ["apple", "bee", "cloud"]
    predictions = np.load(exported / "predictions_valid.npz")
    chances = np.exp(predictions["logits"]) / np.exp(predictions["logits"]).sum(1, keepdims=True)
    row = list(predictions["paths"]).index("valid/bee/1.png")
    np.testing.assert_allclose(found["probabilities"][0], chances[row], atol=1e-5)


@pytest.mark.slow
def test_the_card_escapes_names_and_says_what_a_user_must_know(trained, tiny_data, tmp_path, capsys):
    assert run(trained, tiny_data, "--format", "safetensors", "--out", str(tmp_path / "out")) == 0
    card = (tmp_path / "out/MODEL.md").read_text(encoding="utf-8")
    assert card.startswith("# \\<trained\\> \\& true\n")
    for said in ("one of 3 classes: apple, bee, cloud", "24 train, 12 valid images", "random weights", "`im_sz`",
                 "On the valid split, 12 images", "The classes it knows least well", "model.safetensors"):  # fmt: skip
        assert said in card
    assert not (trained / "export").exists()
    assert "written to" in capsys.readouterr().out


@pytest.mark.slow
def test_what_differs_from_pytorch_is_not_written(trained, tiny_data, tmp_path, monkeypatch, capsys):
    path = tmp_path / "copy"
    shutil.copytree(trained, path)
    monkeypatch.setattr("export.program.MOST_BITS", 9)  # weights of resizing that are too coarse
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.suffix != ".log"}
    assert run(path, tiny_data, "--format", "safetensors", "pt2") == 4
    message = capsys.readouterr().err
    assert "model.pt2: differs from PyTorch on 12 images" in message
    assert message.count("\n") == 1
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.suffix != ".log"} == before


@pytest.mark.slow
def test_no_file_tells_where_it_was_made(exported, tiny_data):
    """torch writes the stack into every node: paths and lines of a private net.py."""
    (program,) = (zipfile.ZipFile(path) for path in (exported / "export").glob("*.pt2"))
    files = {path.name: path.read_bytes() for path in (exported / "export").iterdir()}
    files |= {name: program.read(name) for name in program.namelist()}
    for name, content in files.items():
        for private in (include.ROOT, exported.parent, tiny_data):
            assert str(private).encode() not in content, name


def test_weights_it_started_from_are_named_without_their_folder(trained, tiny_data, tmp_path):
    """And model.json builds the net without them."""
    start = tmp_path / "private" / "start.safetensors"
    start.parent.mkdir()
    shutil.copy(trained / "weights_best.safetensors", start)
    path = experiment(tmp_path / "run", num_epochs=1, pretrain=str(start), search={"weights": str(start)})
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(path)]) == 0
    assert run(path, tiny_data, "--format", "safetensors") == 0
    written = {file.name: file.read_bytes() for file in (path / "export").iterdir()}
    assert b"start.safetensors" in written["MODEL.md"]
    assert run(path, tiny_data, "--format", "safetensors", "--out", str(path / "x/../export"), "--weights", "last") == 0
    assert all(RunFolder(path).intact(f"export/{name}") for name in written)
    assert not [name for name, content in written.items() if b"private" in content]
    start.unlink()
    told = json.loads(written["model.json"])
    net = build_net(Params(**told["params"]), told["num_classes"]).net
    net.load_state_dict(load_file(path / "export/model.safetensors"))


def test_an_earlier_export_of_another_format_stays_in_the_report(trained, tiny_data, tmp_path):
    out = str(tmp_path / "out")
    assert run(trained, tiny_data, "--format", "safetensors", "--weights", "last", "--out", out) == 0
    report = json.loads((tmp_path / "out/export.json").read_text())
    report["files"]["model.onnx"] = {"sha256": "0"}
    report["files"]["gone.onnx"] = {"sha256": "0"}
    (tmp_path / "out/model.onnx").write_bytes(b"changed since")
    (tmp_path / "out/export.json").write_text(json.dumps(report))
    assert run(trained, tiny_data, "--format", "safetensors", "--out", out) == 0
    files = json.loads((tmp_path / "out/export.json").read_text())["files"]
    assert set(files) == {"model.safetensors", "model.json"}
    assert files["model.safetensors"]["weights"] == "best"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "pt2", "--int8"), "--int8 makes an ONNX file"),
        (("--images", "0"), "--images is 0; it must be 1 or more"),
        (("--out", str(include.ROOT / "README.md")), "README.md is a file, not a folder"),
    ],
)
def test_options_that_contradict_are_told(trained, tiny_data, options, message, capsys):
    assert run(trained, tiny_data, *options) == 2
    assert message in capsys.readouterr().err


def test_an_untrained_experiment_and_other_classes_are_told(trained, tiny_data, tmp_path, capsys):
    assert run(experiment(tmp_path / "untrained"), tiny_data) == 2
    assert "holds no trained model" in capsys.readouterr().err
    other = tmp_path / "data"
    shutil.copytree(tiny_data, other)
    for split in include.SPLITS:
        (other / split / "bee").rename(other / split / "wasp")
    assert run(trained, other, "--format", "safetensors") == 2
    assert "missing: bee; unknown: wasp" in capsys.readouterr().err


def test_a_missing_package_is_told_before_anything_is_written(trained, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert run(trained, tiny_data, "--out", str(tmp_path / "out")) == 2
    assert "onnxscript is not installed: pip install" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_being_trained_is_left_alone(trained, tiny_data, capsys):
    folder = RunFolder(trained)
    folder.lock()
    try:
        program = [sys.executable, str(include.ROOT / "export_model.py"), "--data_dir", str(tiny_data)]
        done = subprocess.run([*program, "--model_dir", str(trained)], capture_output=True, text=True)
    finally:
        folder.unlock()
    assert done.returncode == 3
    assert "is being trained by" in done.stderr


@pytest.mark.slow
def test_several_classes_per_image(tiny_multi_label, tmp_path):
    path = experiment(tmp_path / "several", num_epochs=2, loss="bce")
    assert train.main(["--data_dir", str(tiny_multi_label), "--model_dir", str(path)]) == 0
    assert run(path, tiny_multi_label, "--int8") == 0
    report = json.loads((path / "export/export.json").read_text())
    assert report["int8"]["images"] == 8
    answers = Predictor.load(path / "export/model.onnx").predict(sorted(tiny_multi_label.glob("valid/*.png")))
    stored = np.load(path / "predictions_valid.npz")
    np.testing.assert_allclose([answer.logits for answer in answers], stored["logits"], atol=1e-5)
    chances = 1 / (1 + np.exp(-stored["logits"]))
    np.testing.assert_allclose([answer.probabilities for answer in answers], chances, atol=1e-5)


@pytest.mark.slow
def test_unreadable_valid_images_are_left_out_as_in_training(tiny_data, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    bad = data / "valid/bee/1.png"
    bad.write_bytes(bad.read_bytes()[:-60])  # its header is whole
    path = experiment(tmp_path / "run", num_epochs=1, skip_bad=1)
    assert train.main(["--data_dir", str(data), "--model_dir", str(path)]) == 0
    assert run(path, data, "--format", "safetensors") == 0
    assert json.loads((path / "export/export.json").read_text())["images"] == 11
    assert "left out" in capsys.readouterr().out
    for image in (data / "valid").glob("*/*"):
        image.write_bytes(image.read_bytes()[:-60] if image != bad else bad.read_bytes())
    assert run(path, data, "--format", "safetensors") == 2
    assert capsys.readouterr().err.endswith("none of the valid images that were looked at can be read\n")
    shutil.copytree(tiny_data, data, dirs_exist_ok=True)
    bad.write_bytes(bad.read_bytes()[:-60])
    strict = experiment(tmp_path / "strict", num_epochs=1)
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(strict)]) == 0
    assert run(strict, data, "--format", "safetensors") == 2
    assert "valid/bee/1.png: cannot be decoded" in capsys.readouterr().err
