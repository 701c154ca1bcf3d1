"""Pretrained weights: by name, from the cache, from a server, from files and folders, and offline."""

import functools
import gc
import hashlib
import http.server
import os
import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models
from torchvision.models import MobileNet_V3_Small_Weights

import include
from config.run_folder import RunFolder
from config.schema import Params
from model import pretrained
from model.net import build_net
from utils import UserError, to_json

ARCH = "mobilenet_v3_small"
IMAGENET = (include.IMAGENET_MEAN, include.IMAGENET_STD)
REAL_WEIGHTS = os.environ.get("DOSSIER_TEST_WEIGHTS", "")


def params(**values: Any) -> Params:
    return Params(**{"arch": ARCH, "im_sz": 64, **values})


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for ARCH and 1000 classes, named as torchvision names its own: by its digest."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(models.get_model(ARCH, weights=None).state_dict(), folder / "new")
    digest = hashlib.sha256((folder / "new").read_bytes()).hexdigest()
    return (folder / "new").rename(folder / f"mobilenet-{digest[:8]}.pth")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache folder, not there yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub" / "checkpoints"


@pytest.fixture
def server(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.HTTPServer]:
    """Serves the weights, and lets torchvision's entry name that address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(weights.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        point_at(monkeypatch, f"http://127.0.0.1:{served.server_port}/{weights.name}")
        yield served
        served.shutdown()
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()  # torch leaves its connections open


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(MobileNet_V3_Small_Weights.IMAGENET1K_V1.value, "url", url)


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- torchvision's weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [True, "IMAGENET1K_V1", "DEFAULT", "MobileNet_V3_Small_Weights.IMAGENET1K_V1"])
def test_from_the_cache(name: bool | str, cache: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, f"http://127.0.0.1:1/{weights.name}")
    cache.mkdir(parents=True)
    shutil.copy(weights, cache)
    built = build_net(params(pretrain=name), 7)
    assert built.weights == {
        "source": "torchvision MobileNet_V3_Small_Weights.IMAGENET1K_V1",
        "file": weights.name,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "licence": "not stated; torchvision is BSD-3-Clause, trained on ImageNet-1k",
        "head": "new",
    }
    assert built.statistics == IMAGENET
    published = torch.load(weights, weights_only=True)
    assert torch.equal(built.net.get_parameter("features.0.0.weight"), published["features.0.0.weight"])
    assert built.net.get_parameter("classifier.3.weight").shape[0] == 7


def test_downloaded_once(cache: Path, weights: Path, server: http.server.HTTPServer) -> None:
    assert build_net(params(), 1000).weights is not None
    assert [path.name for path in cache.iterdir()] == [weights.name]
    server.shutdown()
    assert build_net(params(), 7).weights is not None


@pytest.mark.parametrize("name", ["missing-01234567.pth", "wrong-01234567.pth"])
def test_a_failed_download_leaves_nothing_and_says_what_to_do(
    name: str, cache: Path, weights: Path, server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("wrong"):
        shutil.copy(weights, weights.parent / name)
    point_at(monkeypatch, f"http://127.0.0.1:{server.server_port}/{name}")
    with pytest.raises(UserError, match="HTTP Error 404" if name.startswith("missing") else "invalid hash") as caught:
        build_net(params(), 7)
    assert f'put {name} into {cache}, or give a file of your own: "pretrain": "<path>"' in one_line(caught)
    assert not list(cache.iterdir())


def test_offline_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, "http://127.0.0.1:1/mobilenet_v3_small-047dcff4.pth")
    with pytest.raises(UserError, match=r"^pretrain: torchvision MobileNet_V3_Small_Weights\.IMAGENET1K_V1") as caught:
        build_net(params(), 7)
    assert f"put mobilenet_v3_small-047dcff4.pth into {cache}" in one_line(caught)
    assert '"pretrain": "<path>"' in one_line(caught)


def test_a_damaged_cache_is_noticed(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "mobilenet_v3_small-047dcff4.pth").write_bytes(b"half")
    with pytest.raises(UserError, match=r"047dcff4\.pth: damaged, .* begin with 047dcff4; delete it and run again"):
        build_net(params(), 7)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r'"IMAGENET1K_V2" is not a weights name of .*did you mean "IMAGENET1K_V1"'):
        build_net(params(pretrain="IMAGENET1K_V2"), 7)
    with pytest.raises(UserError, match=r'^pretrain: "ResNet18_Weights.IMAGENET1K_V1" is not a weights name of'):
        build_net(params(pretrain="ResNet18_Weights.IMAGENET1K_V1"), 7)
    with pytest.raises(UserError, match=r'^pretrain: conv has no weights "IMAGENET1K_V1", or give a file'):
        build_net(params(arch="conv", pretrain="IMAGENET1K_V1"), 7)


def test_every_entry_of_torchvision_has_statistics_and_a_digest_in_its_name() -> None:
    entries = [entry for name in models.list_models(module=models) for entry in models.get_model_weights(name)]
    assert len(entries) >= 100
    for entry in entries:
        assert torch.hub.HASH_REGEX.search(entry.url.rpartition("/")[2]), entry.url
        mean, std = pretrained._torchvision_statistics("any", entry)
        assert len(mean) == len(std) == 3


def test_nets_that_expect_centred_pixels_get_them_without_rescaling_inside(tmp_path: Path) -> None:
    original = models.googlenet(init_weights=False, num_classes=5, transform_input=True).eval()
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    built = build_net(params(arch="googlenet", pretrain=str(tmp_path / "weights.pth")), 5)
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    own_mean, own_std = (torch.tensor(values).view(3, 1, 1) for values in built.statistics or ())
    with torch.no_grad():
        expected = original((pixels - mean) / std)
        torch.testing.assert_close(built.net.eval()((pixels - own_mean) / own_std), expected)


# --- timm's weights ---------------------------------------------------------------------------------------------------


def test_timm_weights_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    original = timm.create_model("test_resnet").eval()
    torch.save(original.state_dict(), tmp_path / "weights.pt")
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(tmp_path / "weights.pt")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    for name in (True, "r160_in1k", "test_resnet.r160_in1k"):
        built = build_net(params(arch="timm:test_resnet", pretrain=name), 1000)
        assert built.weights is not None
        assert built.weights["source"] == "timm test_resnet.r160_in1k"
        assert (built.weights["licence"], built.weights["head"]) == ("apache-2.0", "loaded")
        assert built.statistics == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        images = torch.randn(1, 3, 64, 64)
        assert torch.equal(built.net.eval()(images), original(images))
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")] * 3


def test_timm_offline_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"^pretrain: timm test_resnet.r160_in1k cannot be downloaded") as caught:
        build_net(params(arch="timm:test_resnet"), 7)
    message = one_line(caught)
    assert f"model.safetensors of huggingface.co/timm/test_resnet.r160_in1k in {tmp_path}/models--timm--" in message
    assert '"pretrain": "<path>"' in message


def test_unknown_timm_weights() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(UserError, match=r'"resnet18.a9_in1k" is not a weights name of resnet18; did you mean "resnet'):
        build_net(params(arch="timm:resnet18", pretrain="a9_in1k"), 7)
    with pytest.raises(UserError, match=r'timm has no weights for test_vit_relpos; use "pretrain": 0'):
        build_net(params(arch="test_vit_relpos"), 7)


# --- files and folders ------------------------------------------------------------------------------------------------


def test_a_local_file(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(weights.parent.parent)
    for name in (str(weights), f"{weights.parent.name}/{weights.name}"):
        built = build_net(params(pretrain=name), 7)
        assert built.weights is not None
        assert (built.weights["source"], built.weights["file"]) == ("local file", weights.name)
        assert built.statistics == IMAGENET
    wrapped = {f"module.{name}": value for name, value in torch.load(weights, weights_only=True).items()}
    torch.save({"state_dict": wrapped}, tmp_path / "parallel.pt")
    assert build_net(params(pretrain=str(tmp_path / "parallel.pt")), 7).weights is not None


@pytest.mark.parametrize("name", ["nowhere.pth", "no/where.pth", "~nobody-of-that-name/x.pth", "x" * 400 + ".pth"])
def test_a_missing_file(name: str) -> None:
    with pytest.raises(UserError, match=r"no such file|cannot be found") as caught:
        build_net(params(pretrain=name), 7)
    assert name in one_line(caught)


def test_a_file_for_another_net_is_refused_key_by_key(weights: Path) -> None:
    with pytest.raises(UserError, match=r"pth: these weights do not fit resnet18: conv1.weight is missing; ") as caught:
        build_net(params(arch="resnet18", pretrain=str(weights)), 7)
    assert "in all)" in one_line(caught)


def test_an_experiment_folder(tmp_path: Path) -> None:
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "params.json").write_text("{}", encoding="utf-8")
    values = params(arch="conv", pretrain=str(folder))
    with pytest.raises(UserError, match=r"weights_best\.safetensors: cannot be read.*has this experiment been trained"):
        build_net(values, 3)

    from safetensors.torch import save

    first = build_net(params(arch="conv"), 3).net
    run = RunFolder(folder)
    run.write("weights_best.safetensors", save(dict(first.state_dict())))
    built = build_net(values, 3)
    assert built.statistics is None
    assert built.weights is not None
    assert (built.weights["source"], built.weights["head"]) == ("experiment first", "loaded")
    assert built.weights["licence"] == "not known"
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(built.net.eval()(images), first.eval()(images))

    run.write("params_resolved.json", to_json({"normalize": {"mean": [0.1] * 3, "std": [0.2] * 3}}))
    assert build_net(values, 4).statistics == ((0.1,) * 3, (0.2,) * 3)

    run.write("environment.json", to_json({"weights": {"licence": "for research only"}}))
    inherited = build_net(values, 4).weights
    assert inherited is not None
    assert inherited["licence"] == "for research only"
    run.write("environment.json", to_json({"weights": None}))
    assert build_net(values, 4).weights == inherited | {"licence": "not known"}

    (folder / "weights_best.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged or changed since it was written"):
        build_net(values, 3)


def test_nets_without_weights_start_from_random_ones(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "dossier"):
        assert build_net(params(arch="conv", pretrain=True), 3).weights is None
    assert "conv has no pretrained weights; it starts from random ones" in caplog.text


# --- real weights -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL_WEIGHTS, reason="DOSSIER_TEST_WEIGHTS names no file of ImageNet weights for mobilenet_v2")
def test_real_weights() -> None:
    built = build_net(params(arch="mobilenet_v2", im_sz=224, pretrain=REAL_WEIGHTS), 1000)
    assert built.weights is not None
    assert built.weights["head"] == "loaded"
    assert built.statistics == IMAGENET
    assert {parameter.dtype for parameter in built.net.parameters()} == {torch.float32}
    original = models.mobilenet_v2()
    state = torch.load(REAL_WEIGHTS, weights_only=True)
    original.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(built.net.eval()(images), original.eval()(images))
