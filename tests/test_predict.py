import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import export_model
import include
import predict
import train
from config.run_folder import RunFolder
from export.answers import FORMATS
from images.shards import pack
from tests.conftest import write_image
from tests.export.models import contract, model
from tests.training.runs import experiment

NET = """
from torch import nn

def build_net(params, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * params.im_sz**2, num_classes))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("predict") / "model.onnx"
    path.write_bytes(model(contract()))
    return path


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    path = experiment(tmp_path_factory.mktemp("predict") / "trained", num_epochs=2)
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(path)]) == 0
    return path


def run(model, *arguments):
    return predict.main(["--model", str(model), *map(str, arguments)])


def test_three_formats_say_the_same(file, tiny_data, capsys):
    images = sorted((tiny_data / "valid/bee").iterdir())
    assert run(file, tiny_data / "valid/bee", "--top", 2) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert run(file, *images, "--top", 2, "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert run(file, *images, "--top", 2, "--format", "jsonl") == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in table] == [row["image"] for row in rows] == [o["image"] for o in objects]
    assert len(table) == 4
    for line, row, found in zip(table, rows, objects, strict=True):
        best = found["classes"]
        assert line[1::2] == [row["class_1"], row["class_2"]] == [one["class"] for one in best]
        assert float(line[2]) == pytest.approx(float(row["probability_1"]), abs=1e-4)
        assert float(row["probability_2"]) == pytest.approx(best[1]["probability"], abs=1e-6)
        assert row["error"] == ""


def test_a_threshold_tells_which_answers_are_unsure(file, tiny_data, tmp_path, capsys):
    folder = tiny_data / "valid"
    assert run(file, folder, "--format", "jsonl") == 0
    plain = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all("sure" not in answer for answer in plain)
    chances = [answer["classes"][0]["probability"] for answer in plain]
    middle = float(np.median(chances))
    expected = [chance >= middle for chance in chances]
    assert set(expected) == {True, False}
    strict = tmp_path / "strict.onnx"
    strict.write_bytes(model(contract(threshold=middle, accuracy_target=0.9)))
    assert run(strict, folder, "--format", "jsonl") == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["sure"] for line in out.splitlines()] == expected
    count = expected.count(False)
    why = f"below {middle:.4f}, the probability from which on 0.9 or more were right on valid"
    assert err == f"{count} answers are unsure: {why}\n"
    assert run(strict, folder, "--format", "csv", "--top", 2) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["sure"] for row in rows] == [str(sure).lower() for sure in expected]
    assert run(strict, folder) == 0
    assert [line.endswith("  unsure") for line in capsys.readouterr().out.splitlines()] == [not x for x in expected]


def test_a_bad_image_is_neither_sure_nor_unsure(tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"<html>")
    strict = tmp_path / "strict.onnx"
    strict.write_bytes(model(contract(threshold=0.5, accuracy_target=0.9)))
    assert run(strict, tmp_path / "bad.png", "--format", "csv") == 1
    [row] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["class_1"], row["sure"]) == ("", "")
    assert row["error"].startswith("is a web page")


def test_a_folder_is_walked_and_paths_are_read_from_standard_input(file, tmp_path, monkeypatch, capsys):
    names = ["a.png", "deep/er/b.PNG", "deep/c.jpg"]
    for name in names:
        write_image(tmp_path / name)
    (tmp_path / "deep/notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    assert run(file, tmp_path) == 0
    walked = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert walked == sorted(str(tmp_path / name) for name in names)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{tmp_path / names[2]}\n\n{tmp_path / names[0]}\n"))
    assert run(file, tmp_path / names[1], "-") == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [str(tmp_path / names[i]) for i in (1, 2, 0)]


def test_names_on_standard_input_need_not_be_text(file, tmp_path, monkeypatch, capsys):
    image = write_image(tmp_path / " fine .png")
    named = os.fsencode(image) + b" \r\n"
    image.rename(f"{image} ")
    given = io.TextIOWrapper(io.BytesIO(b" \n" + named + b"f\xe9.png\n"), encoding="utf-8", errors="strict")
    monkeypatch.setattr("sys.stdin", given)
    assert run(file, "-", "--format", "jsonl") == 1
    fine, missing = map(json.loads, capsys.readouterr().out.splitlines())
    assert fine["image"] == f"{image} "
    assert "classes" in fine
    assert missing["error"] == "cannot be read (No such file or directory)"


def test_nothing_comes_from_a_closed_standard_input(file, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)
    assert run(file, "-") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device that is always full")
def test_a_full_device_is_told(file, tiny_data):
    program = [sys.executable, str(include.ROOT / "predict.py"), "--model", str(file), str(tiny_data / "valid")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        include.FAULT,
        "standard output: cannot be written (No space left on device)\n",
    )


@pytest.mark.parametrize("form", FORMATS)
def test_bad_images_are_named_and_counted(file, tmp_path, form, capsys):
    good = write_image(tmp_path / "good.png")
    bad = tmp_path / "=bad\n.png"
    bad.write_bytes(b"<html>")
    assert run(file, good, bad, "--format", form) == 1
    out, err = capsys.readouterr()
    assert "is a web page, not an image" in out
    assert len(out.splitlines()) == 2 + (form == "csv")
    assert err == "1 files could not be read as images\n"
    assert run(file, good, bad, "--format", form, "--out", tmp_path / "answers") == 1
    assert (tmp_path / "answers").read_text() == out
    assert capsys.readouterr().err.startswith(f"{tmp_path}/=bad\\n.png: is a web page")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.png",), "missing.png: no such file or folder"),
        ((".github_empty",), "holds no image"),
        (("x.png", "--top", "0"), "must be 1 or more"),
        (("a" * 300,), "aaa: no such file or folder"),
    ],
)
def test_what_cannot_be_done_is_told(file, tmp_path, monkeypatch, arguments, message, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".github_empty").mkdir()
    write_image(tmp_path / "x.png")
    assert run(file, *arguments) == 2
    assert message in capsys.readouterr().err


def test_what_is_no_model_is_told(tmp_path, capsys):
    assert run(tmp_path / "none", "x.png") == 2
    assert "none: no such file or folder; give an experiment or an .onnx file" in capsys.readouterr().err
    assert run(tmp_path / ("a" * 300), "x.png") == 2
    assert "aaa: no such file or folder; give" in capsys.readouterr().err
    assert run(tmp_path, "x.png") == 2
    assert "an experiment is a folder with a params.json" in capsys.readouterr().err
    assert run(experiment(tmp_path / "untrained"), "x.png") == 2
    assert "holds no trained model" in capsys.readouterr().err


def test_an_experiment_without_an_export_is_answered_by_pytorch(trained, tiny_data, capsys):
    """As training itself answered."""
    found = np.load(trained / "predictions_valid.npz")
    chances = np.exp(found["logits"]) / np.exp(found["logits"]).sum(1, keepdims=True)
    expected = {str(tiny_data / str(path)): row for path, row in zip(found["paths"], chances, strict=True)}
    assert run(trained, tiny_data / "valid", "--format", "jsonl", "--top", 3, "--batch_size", 5) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {answer["image"] for answer in answers} == set(expected)
    for answer in answers:
        row = [one["probability"] for one in sorted(answer["classes"], key=lambda one: one["class"])]
        np.testing.assert_allclose(row, expected[answer["image"]], atol=2e-6)


@pytest.mark.slow
def test_an_export_answers_only_for_its_own_weights(trained, tiny_data, tmp_path, capsys):
    path = tmp_path / "experiment"
    shutil.copytree(trained, path)
    assert export_model.main(["--data_dir", str(tiny_data), "--model_dir", str(path)]) == 0
    capsys.readouterr()
    images = [tiny_data / "valid/apple/0.jpg", tiny_data / "valid/cloud/1.png"]
    code = (
        "import predict, sys\n"
        f"code = predict.main(['--model', {str(path)!r}, {str(images[0])!r}])\n"
        "sys.exit(code or ' '.join({'torch', 'pandas', 'sklearn', 'onnx'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=include.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert run(path, *images, "--format", "jsonl") == 0
    exported = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    shutil.rmtree(path / "export")
    assert run(path, *images, "--format", "jsonl") == 0
    plain = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for one, other in zip(exported, plain, strict=True):
        assert one["classes"][0]["class"] == other["classes"][0]["class"]
        assert one["classes"][0]["probability"] == pytest.approx(other["classes"][0]["probability"], abs=1e-5)
    assert done.stdout.split()[1] == exported[0]["classes"][0]["class"]


def test_warnings_stay_out_of_the_answers(tmp_path, tiny_data, capsys):
    folder = RunFolder(experiment(tmp_path / "run"))
    folder.write("weights_best.safetensors", b"weights")
    digest = folder.digests()["weights_best.safetensors"]
    folder.write("export/model.onnx", model(contract(weights_sha256=digest)))
    kept = {"temperature": 1.5, "threshold": None, "accuracy_target": None, "weights_sha256": digest}
    folder.write_json("calibration_best.json", kept)
    assert run(folder.path, tiny_data / "valid/bee", "--format", "jsonl") == 0
    out, err = capsys.readouterr()
    assert len([json.loads(line) for line in out.splitlines()]) == 4
    assert "is older than the calibration of these weights; export it anew" in err


def test_a_file_has_its_own_weights(file, tiny_data, capsys):
    assert run(file, tiny_data / "valid", "--weights", "averaged") == 2
    assert "--weights averaged: " in (err := capsys.readouterr().err)
    assert "model.onnx has its own; give the experiment instead" in err


def test_images_in_tar_files(file, tiny_data, tmp_path, capsys):
    root = shutil.copytree(tiny_data / "valid", tmp_path / "valid")

    def answers(*images):
        assert run(file, *images, "--format", "jsonl") == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return {answer["image"]: tuple(answer["classes"][0].values()) for answer in found}

    def by_name(found):
        return {tuple(Path(path).parts[-2:]): close(*best) for path, best in found.items()}

    def close(name, chance):
        return name, pytest.approx(chance, abs=1e-5)

    (root / "other.tar").write_bytes(b"no matter, beside images")
    loose = by_name(answers(root))
    (root / "other.tar").unlink()
    pack(root, 5)
    packed = answers(root)
    assert {tuple(Path(path).parts[-2:]): best for path, best in packed.items()} == loose
    path, best = next(iter(packed.items()))
    assert ".tar/" in path
    assert answers(path) == {path: close(*best)}
    assert run(file, root / "0.tar" / "bee" / "none.png") == 2
    assert "no such file or folder" in capsys.readouterr().err
    (root / "0.tar").write_bytes(b"nonsense")
    assert run(file, root) == 2
    assert "0.tar: is damaged, or no tar" in capsys.readouterr().err


def test_own_code_runs_only_when_it_is_trusted(tiny_data, tmp_path, capsys):
    path = experiment(tmp_path / "own", arch="net.py", num_epochs=1)
    (path / "net.py").write_text(NET)
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(path)]) == 0
    capsys.readouterr()
    image = tiny_data / "valid/apple/0.jpg"
    assert run(path, image) == 2
    assert (
        "its net is the code in code/net.py, which would run; read it and give --trust_code" in capsys.readouterr().err
    )
    assert run(path, image, "--trust_code") == 0
    assert capsys.readouterr().out.startswith(str(image))


def test_a_reader_that_ends_early_is_borne(file, tiny_data):
    program = (
        f"{sys.executable} {include.ROOT}/predict.py --model {file} {tiny_data}/train {tiny_data}/valid - </dev/null"
    )
    done = subprocess.run(
        ["bash", "-c", f"{program} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, cwd=include.ROOT
    )
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")
