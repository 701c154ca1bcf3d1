"""Every kind of net: trained for an epoch, exported, loaded again, and answering as it did in training."""

import json
import time

import numpy as np
import pytest

import export_model
import train
from export.checks import allowed
from export.predictor import Predictor
from model.small_nets import conv, deep, shallow
from tests.model.test_backbones import FAMILIES, SIDE
from tests.training.runs import experiment

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, params, num_classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.GELU())
        self.scores = nn.Linear(8, 1)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images):
        tokens = self.features(images).flatten(2).transpose(1, 2)  # (B, T, 8)
        return self.head((self.scores(tokens).softmax(1) * tokens).sum(1))

def build_net(params, num_classes):
    return Net(params, num_classes)
"""
SMALL = tuple(function.__name__ for function in (shallow, deep, conv))
TIMM = (
    "timm:test_resnet", "timm:convnext_atto", "timm:efficientvit_b0", "timm:fastvit_t8", "timm:ghostnet_050",
    "timm:hardcorenas_a", "timm:lcnet_050", "timm:levit_128s", "timm:mambaout_femto", "timm:mobilenetv4_conv_small_050",
    "timm:repvgg_a0", "timm:tinynet_e", "timm:vit_tiny_patch16_224",
)  # fmt: skip
SAMPLE = (*SMALL, "resnet18", "timm:test_resnet", "net.py")
OTHERS = sorted({*FAMILIES, *TIMM, "mambavision_t"} - set(SAMPLE))
# What cannot be exported, and what torch says of it.
EXCEPTIONS: dict[str, str] = {}
SIDES = SIDE | {"timm:levit_128s": 224, "timm:vit_tiny_patch16_224": 224, "mambavision_t": 64}
EVERY = [
    *(pytest.param(name, marks=pytest.mark.slow) for name in SAMPLE),
    *(pytest.param(name, marks=pytest.mark.campaign) for name in OTHERS),
]


def test_the_exceptions_are_few_and_known():
    assert len(EXCEPTIONS) <= 3
    assert set(EXCEPTIONS) <= set(OTHERS)
    assert len(OTHERS) + len(SAMPLE) >= 37


@pytest.mark.parametrize("arch", EVERY)
def test_is_exported_and_answers_as_in_training(arch, tiny_data, tmp_path, capsys):
    side = SIDES.get(arch, 28 if arch in SMALL else 64)
    path = experiment(
        tmp_path / "net", arch=arch, num_epochs=1, im_sz=side, learning_rate=0.001, memory_format="contiguous"
    )
    if arch == "net.py":
        (path / "net.py").write_text(NET)
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(path)]) == 0
    begun = time.perf_counter()
    code = export_model.main(["--data_dir", str(tiny_data), "--model_dir", str(path)])
    seconds = time.perf_counter() - begun
    if arch in EXCEPTIONS:
        assert code == 4
        assert EXCEPTIONS[arch] in capsys.readouterr().err
        return
    assert code == 0, capsys.readouterr().err
    predictor = Predictor.load(path / "export/model.onnx", threads=1)
    found = np.load(path / "predictions_valid.npz")
    answers = predictor.predict([tiny_data / str(name) for name in found["paths"]])
    logits = np.stack([answer.logits for answer in answers])
    most = 2 * allowed(float(np.ptp(found["logits"])))  # training computed them in other batches
    np.testing.assert_allclose(logits, found["logits"], atol=most, rtol=0)
    report = json.loads((path / "export/export.json").read_text())
    parity = report["files"]["model.onnx"]["parity"]
    about = report["files"]["model.onnx"]
    numbers = (about["bytes"] / 1e6, parity["max_difference_of_logits"], parity["share_of_logit_range"])
    with capsys.disabled():
        print("\n| {} | {} | {:.1f} | {:.2f} | {:.1e} | {:.1e} |".format(arch, side, seconds, *numbers))
