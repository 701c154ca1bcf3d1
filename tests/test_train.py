import json
import shutil

import numpy as np
import pytest

import train
from config.run_folder import RunFolder
from tests.conftest import write_image
from tests.training.runs import experiment, history

TEMPLATE = {  # of the source template, as it stands
    "arch": "resnet18", "pretrain": 1, "n_clas": 9, "im_sz": 224, "batch_size": 128, "bs_test": 16,
    "learning_rate": [0.002, 0.002, 0.002], "wd": 0.0001, "ps": 0.5, "num_epochs": 10, "num_workers": 4, "cuda": 1,
    "scheduler": "one_cycle", "div_factor": 25, "pct_start": 0.3, "save_summary_steps": 1,
    "early_stopping": {"patience": 10, "monitor_metric": "loss", "min_delta": 0.01, "minimize": 1},
    "hyper_search": {"ps": [0.5, 0.75]},
}  # fmt: skip


def run(path, data, *options):
    return train.main(["--data_dir", str(data), "--model_dir", str(path), *options])


@pytest.mark.slow
def test_the_source_templates_params_train_as_they_stand(tmp_path):
    import torch
    import torchvision

    torch.manual_seed(0)
    weights = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    random = np.random.default_rng(0)
    for split, name in ((s, n) for s in ("train", "valid") for n in range(9)):
        write_image(
            tmp_path / "data" / split / f"class_{name}" / "1.png", random.integers(0, 255, (40, 60, 3), np.uint8)
        )
    path = tmp_path / "base_model"
    path.mkdir()
    (path / "params.json").write_text(json.dumps(TEMPLATE))
    assert run(path, tmp_path / "data", "--set", f"pretrain={weights}") == 0
    assert RunFolder(path).status()["state"] == "finished"
    assert len(history(path)["epochs"]) == 10
    environment = json.loads((path / "environment.json").read_text())
    assert environment["weights"]["file"] == "resnet18.pth"
    resolved = json.loads((path / "params_resolved.json").read_text())
    assert resolved["hyper_search"] == {"ps": [0.5, 0.75]}
    assert resolved["normalize"]["mean"] == pytest.approx([0.485, 0.456, 0.406])


def test_the_folder_is_named_once(tiny_data, tmp_path, capsys):
    path = experiment(tmp_path / "x")
    assert train.main(["--data_dir", str(tiny_data)]) == 2
    assert train.main([str(path / "params.json"), "--model_dir", str(path), "--data_dir", str(tiny_data)]) == 2
    assert "name the experiment once" in capsys.readouterr().err


def test_overrides_are_used_and_written_down(tiny_data, tmp_path):
    path = experiment(tmp_path / "x", num_epochs=1)
    before = (path / "params.json").read_bytes()
    assert run(path, tiny_data, "--set", "learning_rate=0.02", "--set", "early_stopping.patience=3") == 0
    resolved = json.loads((path / "params_resolved.json").read_text())
    assert (resolved["learning_rate"], resolved["early_stopping"]["patience"]) == (0.02, 3)
    assert (path / "params.json").read_bytes() == before


def test_every_mistake_is_a_line(tiny_data, tmp_path, capsys):
    path = experiment(tmp_path / "x", bath_size=3, num_epochs=-1, arch="resnet19", loss="cross_entrop")
    assert run(path, tiny_data, "--set", "ps=2") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert sum("did you mean" in line for line in lines) == 3
    assert not (path / "status.json").exists()


def test_missing_data(tmp_path, capsys):
    path = experiment(tmp_path / "x")
    assert run(path, tmp_path / "nowhere") == 2
    assert "no such folder; the layout is data/<name>" in capsys.readouterr().err
    assert RunFolder(path).status()["reason"] == "invalid"


def test_a_class_that_train_lacks(tiny_data, tmp_path, capsys):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    (data / "valid" / "bee").rename(data / "valid" / "beee")
    path = experiment(tmp_path / "x")
    assert run(path, data) == 2
    error = capsys.readouterr().err
    assert "valid/beee: train has no such class" in error
    assert 'did you mean "bee"?' in error


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"arch": "resnet18", "head": "concat_pool", "im_sz": 32, "learning_rate": {"low": 1e-4, "high": 1e-2}},
        {"arch": "mobilenet_v3_small", "im_sz": 32, "freeze": "body"},
        {"arch": "timm:resnet10t", "im_sz": 32, "batch_norm": "all_eval", "layer_groups": 4},
        {"arch": "shallow", "channels": 1, "optimizer": "SGD", "optimizer_arguments": {"momentum": 0.9}},
        {"arch": "deep", "scheduler": "ReduceLROnPlateau", "loss": "focal", "sampler": "weighted"},
        {"precision": "bf16", "memory_format": "channels_last", "mixup": 0.2, "cutmix": 1.0, "resize": "letterbox"},
        {"augment": ["rand_augment", "v2.RandomInvert", "random_erasing"], "ema_decay": 0.9, "gradient_clip": 1.0},
        {"loss_arguments": {"class_weights": "balanced", "label_smoothing": 0.1}, "scheduler": "flat_cosine"},
    ],
    ids=lambda changes: next(iter(changes.values())) if "arch" in changes else "_".join(changes),
)
def test_the_kinds_of_training(tiny_data, tmp_path, changes):
    path = experiment(tmp_path / "x", **({"num_epochs": 2} | changes))
    assert run(path, tiny_data) == 0
    assert len(history(path)["epochs"]) == 2
    assert (path / "weights_averaged.safetensors").is_file()
