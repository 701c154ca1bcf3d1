"""MambaVision: its published sizes, windows, the mixer against a plain loop, and the authors' weights files."""

import itertools
import logging
import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import include
from config.schema import Params
from model import mambavision as module
from model.groups import layer_groups
from model.mambavision import SIZES, Attention, DropPath, Mixer, Size, Windowed, mambavision
from model.net import build_net
from model.optim import listed_without_decay
from utils import UserError

PUBLISHED_MILLIONS = {"mambavision_t": 31.8, "mambavision_t2": 35.1, "mambavision_s": 50.1, "mambavision_b": 97.7,
                      "mambavision_l": 227.9}  # fmt: skip
TINY = Size((1, 1, 3, 2), width=16, stem=8, heads=(2, 4), drop_path=0.1, layer_scale=0.5)


def tiny(channels: int = 3, num_classes: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return mambavision(TINY, channels, num_classes, ps=0.3)


def params(**values: Any) -> Params:
    return Params(**{"arch": "mambavision_t", "pretrain": False, "im_sz": 64, "ps": 0.3, **values})


# --- the net ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", SIZES)
def test_published_number_of_parameters(arch: str) -> None:
    with torch.device("meta"):
        net = mambavision(SIZES[arch], 3, 1000, ps=0.0)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count / 1e6 == pytest.approx(PUBLISHED_MILLIONS[arch], rel=0.001)


def test_first_half_of_the_blocks_are_mixers() -> None:
    with torch.device("meta"):
        net = mambavision(SIZES["mambavision_s"], 3, 10, ps=0.0)
    stages: list[Any] = [net.get_submodule(name) for name in ("stage_3", "stage_4")]
    kinds = [[type(block.mixer) for block in stage] for stage in stages]
    assert kinds == [[Mixer] * 4 + [Attention] * 3, [Mixer] * 3 + [Attention] * 2]
    drops = [module.chance for module in net.modules() if isinstance(module, DropPath)]
    assert drops == pytest.approx([0.2 * place / 17 for place in range(18)])


@pytest.mark.parametrize(("channels", "im_sz"), [(3, 32), (1, 47), (3, 240), (1, 8)])
def test_forward_backward_and_round_trip_at_any_size(channels: int, im_sz: int) -> None:
    net, other = tiny(channels), tiny(channels)
    images = torch.randn(2, channels, im_sz, im_sz)
    logits = net(images)
    assert logits.shape == (2, 5)
    logits.logsumexp(1).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(images), net.eval()(images))


@pytest.mark.parametrize("head", ["backbone", "concat_pool"])
def test_the_smallest_of_the_published(head: str) -> None:
    built = build_net(params(head=head), 5)
    assert (built.statistics, built.weights) == (None, None)
    images = torch.randn(2, 3, 64, 64)
    built.net(images).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None for parameter in built.net.parameters())
    dropouts = [layer.p for layer in built.net.modules() if isinstance(layer, nn.Dropout)]
    assert dropouts == ([0.3] if head == "backbone" else [0.15, 0.3])

    groups = layer_groups(built.net, 4, images.shape, 5)
    assert sorted(itertools.chain(*groups)) == sorted(name for name, _ in built.net.named_parameters())
    assert groups[0][0] == "stem.0.weight"
    assert all(name.startswith(("head.", "classifier.")) for name in groups[-1])
    stages = [[int(name[6]) for name in group if name.startswith("stage_")] for group in groups]
    assert all(stage == sorted(stage) for stage in [*stages, list(itertools.chain(*stages))])


def test_learns_32_images_by_heart() -> None:
    net = tiny(num_classes=4)
    images, labels = torch.randn(32, 3, 64, 64), torch.arange(32) % 4
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.003)
    for _ in range(24):
        optimizer.zero_grad()
        functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    assert torch.equal(net.eval()(images).argmax(1), labels)


# --- its parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "windows", "tokens"),
    [(14, 1, 14 * 14), (2, 1, 4), (1, 1, 1), (16, 4, 8 * 8), (15, 4, 8 * 8), (28, 4, 14 * 14), (29, 9, 10 * 10)],
)
def test_windows_are_few_equal_and_come_back_in_place(side: int, windows: int, tokens: int) -> None:
    stage = Windowed(8, [0.0, 0.0], heads=2, window=14, layer_scale=None)
    seen: list[Tensor] = []
    for place in (0, 1):
        stage[place] = nn.Identity()
    stage[0].register_forward_hook(lambda _module, _inputs, x: seen.append(x))
    places = torch.arange(2 * 8 * side * side).float().reshape(2, 8, side, side)
    assert torch.equal(stage(places), places)
    assert seen[0].shape == (2 * windows, tokens, 8)
    across = math.isqrt(tokens)
    assert torch.equal(seen[0][0, : min(across, side), 0], places[0, 0, 0, :across])  # along the rows
    assert (seen[0] == 0).sum() <= 1 + seen[0].numel() - places.numel()


def test_nothing_crosses_the_windows() -> None:
    torch.manual_seed(0)
    stage = Windowed(16, [0.0] * 4, heads=2, window=7, layer_scale=None).eval()
    x = torch.randn(1, 16, 10, 10)
    changed = x.clone()
    changed[:, :, 7, 2] += 1  # in the lower left of four windows of 5 x 5
    with torch.no_grad():
        different = (stage(x) - stage(changed)).abs().amax(dim=(0, 1)) > 1e-7
    assert bool(different[5:, :5].all())
    assert int(different.sum()) == 25


def test_the_mixer_is_algorithm_1_of_the_paper() -> None:
    torch.manual_seed(0)
    mixer = Mixer(16).double()
    nn.init.normal_(mixer.D)
    nn.init.normal_(mixer.A_log)
    tokens = torch.randn(2, 9, 16, dtype=torch.float64)
    state = mixer.state_dict()

    def convolved(x: Tensor, weight: Tensor) -> Tensor:
        before, after = functional.pad(x, (0, 0, 1, 0))[:, :-1], functional.pad(x, (0, 0, 0, 1))[:, 1:]
        mixed = before * weight[:, 0, 0] + x * weight[:, 0, 1] + after * weight[:, 0, 2]
        return mixed / (1 + torch.exp(-mixed))

    halves = tokens @ state["in_proj.weight"].T
    x = convolved(halves[..., :8], state["conv_scanned.weight"])
    z = convolved(halves[..., 8:], state["conv_beside.weight"])
    chosen = x @ state["x_proj.weight"].T
    rank = 1
    raw = chosen[..., :rank] @ state["dt_proj.weight"].T + state["dt_proj.bias"]
    step, enter, read = torch.log1p(torch.exp(raw)), chosen[..., rank : rank + 8], chosen[..., rank + 8 :]
    hidden, rows = torch.zeros(2, 8, 8, dtype=torch.float64), []
    for token in range(9):
        decay = torch.exp(-step[:, token, :, None] * torch.exp(state["A_log"]))
        hidden = decay * hidden + (step[:, token] * x[:, token]).unsqueeze(2) * enter[:, token].unsqueeze(1)
        rows.append((hidden * read[:, token].unsqueeze(1)).sum(2) + state["D"] * x[:, token])
    expected = torch.cat([torch.stack(rows, 1), z], 2) @ state["out_proj.weight"].T
    torch.testing.assert_close(mixer(tokens), expected, rtol=1e-5, atol=1e-6)  # the steps are float32


def test_step_sizes_and_rates_survive_the_first_weights() -> None:
    net = tiny()
    mixers = [layer for layer in net.modules() if isinstance(layer, Mixer)]
    assert len(mixers) == 3
    for mixer in mixers:
        steps = functional.softplus(mixer.dt_proj.bias)
        assert bool(((steps > 0.00099) & (steps < 0.101)).all())
        assert steps.max() > 3 * steps.min()
        torch.testing.assert_close(mixer.A_log.exp()[0], torch.arange(1.0, 9))
    other_biases = [layer.bias for layer in net.modules() if isinstance(layer, Attention) for layer in [layer.proj]]
    assert all(bool((bias == 0).all()) for bias in other_biases)
    assert {"stage_3.0.mixer.A_log", "stage_3.0.mixer.D"} <= listed_without_decay(net)


def test_drop_path() -> None:
    torch.manual_seed(0)
    drop, ones = DropPath(0.25), torch.ones(4000, 3, 2)
    assert torch.equal(drop.eval()(ones), ones)
    dropped = drop.train()(ones)
    rows = dropped[:, 0, 0]
    assert torch.equal(dropped, rows[:, None, None].expand_as(ones))
    assert sorted(rows.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert rows.mean().item() == pytest.approx(1, abs=0.05)
    assert DropPath(0.0).train()(ones) is ones


# --- the authors' weights ---------------------------------------------------------------------------------------------


Shapes = dict[str, tuple[int, ...]]


def norm(name: str, width: int, batch: bool = False) -> Shapes:
    return {f"{name}.{part}": (width,) for part in ("weight", "bias", *["running_mean", "running_var"] * batch)}


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def mixer(name: str, width: int) -> Shapes:
    half, rank = width // 2, -(-width // 16)
    return linear(f"{name}.dt_proj", half, rank) | {
        f"{name}.A_log": (half, 8), f"{name}.D": (half,), f"{name}.conv1d_x.weight": (half, 1, 3),
        f"{name}.conv1d_z.weight": (half, 1, 3), f"{name}.in_proj.weight": (width, width),
        f"{name}.x_proj.weight": (rank + 16, half), f"{name}.out_proj.weight": (width, width),
    }  # fmt: skip


def block(name: str, width: int, tokens: bool, attention: bool) -> Shapes:
    norms = norm(f"{name}.norm1", width, not tokens) | norm(f"{name}.norm2", width, not tokens)
    if not tokens:
        shapes: Shapes = {}
        for conv in ("conv1", "conv2"):
            shapes |= {f"{name}.{conv}.weight": (width, width, 3, 3), f"{name}.{conv}.bias": (width,)}
        return norms | shapes
    shapes = linear(f"{name}.mlp.fc1", 4 * width, width) | linear(f"{name}.mlp.fc2", width, 4 * width)
    shapes |= {f"{name}.gamma_1": (width,), f"{name}.gamma_2": (width,)}
    if not attention:
        return norms | shapes | mixer(f"{name}.mixer", width)
    return norms | shapes | linear(f"{name}.mixer.qkv", 3 * width, width) | linear(f"{name}.mixer.proj", width, width)


def published(size: Size, num_classes: int) -> dict[str, Tensor]:
    """Names and shapes as in the authors' files for their sizes b and l, with values of no meaning."""
    shapes: Shapes = {}
    for place, outputs, inputs in ((0, size.stem, 3), (3, size.width, size.stem)):
        shapes |= norm(f"patch_embed.conv_down.{place + 1}", outputs, batch=True)
        shapes[f"patch_embed.conv_down.{place}.weight"] = (outputs, inputs, 3, 3)
    for level, depth in enumerate(size.depths):
        width = size.width * 2**level
        for index in range(depth):
            shapes |= block(f"levels.{level}.blocks.{index}", width, level > 1, index >= depth - depth // 2)
        if level < 3:
            shapes[f"levels.{level}.downsample.reduction.0.weight"] = (2 * width, width, 3, 3)
    shapes |= norm("norm", 8 * size.width, batch=True) | linear("head", num_classes, 8 * size.width)
    random = torch.Generator().manual_seed(0)
    return {name: torch.rand(*shape, generator=random) * 0.1 for name, shape in shapes.items()}


@pytest.fixture
def a_tiny_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "mambavision_b", TINY)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_published_weights_load_by_their_names(
    kind: str, tmp_path: Path, a_tiny_one: None, caplog: pytest.LogCaptureFixture
) -> None:
    state = published(TINY, 11)
    path = tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_file({f"model.{name}": value for name, value in state.items()}, path)
    else:
        torch.save({"state_dict": state}, path)
    with caplog.at_level(logging.WARNING):
        built = build_net(params(arch="mambavision_b", pretrain=str(path)), 11)
    assert built.weights is not None
    assert (built.weights["head"], built.weights["licence"]) == ("loaded", module.LICENCE)
    assert f"{path}: published weights of MambaVision; they carry NVIDIA's non-commercial licence" in caplog.text
    assert built.statistics == (include.IMAGENET_MEAN, include.IMAGENET_STD)

    ours = built.net.state_dict()
    for name, theirs, factor in (
        ("stem.3.weight", "patch_embed.conv_down.3.weight", 1),
        ("stage_2.0.norm2.running_var", "levels.1.blocks.0.norm2.running_var", 1),
        ("down_3.weight", "levels.2.downsample.reduction.0.weight", 1),
        ("stage_3.1.mixer.conv_scanned.weight", "levels.2.blocks.1.mixer.conv1d_x.weight", 1),
        ("stage_3.1.mixer.conv_beside.weight", "levels.2.blocks.1.mixer.conv1d_z.weight", 1),
        ("stage_3.2.mixer.qkv.bias", "levels.2.blocks.2.mixer.qkv.bias", 1),
        ("stage_4.0.gamma_2", "levels.3.blocks.0.gamma_2", 1),
        ("stage_4.0.mixer.dt_proj.bias", "levels.3.blocks.0.mixer.dt_proj.bias", 2),  # theirs is added twice
        ("classifier.weight", "head.weight", 1),
    ):
        assert torch.equal(ours[name], factor * state[theirs]), name
    assert len(state) == sum(not name.endswith("num_batches_tracked") for name in ours)


def test_published_weights_for_other_classes_colours_and_heads(tmp_path: Path, a_tiny_one: None) -> None:
    state = published(TINY, 11)
    torch.save(state, tmp_path / "weights.pt")
    values = {"arch": "mambavision_b", "pretrain": str(tmp_path / "weights.pt"), "channels": 1}
    for head in ("backbone", "concat_pool"):
        built = build_net(params(head=head, **values), 4)
        assert built.weights is not None
        assert built.weights["head"] == "new"
        first = built.net.state_dict()["stem.0.weight"]
        assert torch.equal(first, state["patch_embed.conv_down.0.weight"].sum(1, keepdim=True))
    torch.save(built.net.state_dict(), tmp_path / "own.pt")
    own = build_net(params(head="concat_pool", **values | {"pretrain": str(tmp_path / "own.pt")}), 4)
    assert own.weights is not None
    assert (own.weights["head"], own.weights["licence"]) == ("loaded", "not known")
    bias = "stage_3.0.mixer.dt_proj.bias"
    assert torch.equal(own.net.state_dict()[bias], built.net.state_dict()[bias])

    del state["levels.2.blocks.0.mixer.A_log"]
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"do not fit mambavision_b: stage_3\.0\.mixer\.A_log is missing$"):
        build_net(params(**values), 4)


@pytest.mark.parametrize("pretrain", [True, "IMAGENET1K_V1"])
def test_published_weights_are_not_downloaded(pretrain: bool | str) -> None:
    with mock.patch("torch.hub.download_url_to_file", side_effect=AssertionError), pytest.raises(UserError) as caught:
        build_net(params(arch="mambavision_t2", pretrain=pretrain), 5)
    assert str(caught.value) == (
        "pretrain: the published weights of mambavision_t2 carry NVIDIA's non-commercial licence (research and "
        'evaluation only), so they are not downloaded; use "pretrain": 0, or, if it allows your use, get '
        "model.safetensors from huggingface.co/nvidia/MambaVision-T2-1K and give its path"
    )


# --- export -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_exports_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    size = Size((1, 1, 2, 1), width=16, stem=8, heads=(2, 4), drop_path=0.0)
    net, images = mambavision(size, 3, 5, ps=0.0).eval(), torch.randn(3, 3, 240, 240)  # four windows of 8 x 8
    program = torch.onnx.export(
        net, (images[:2],), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},), verbose=False
    )
    assert program is not None
    program.save(str(tmp_path / "net.onnx"))
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    for batch in (1, 3):
        (logits,) = session.run(None, {session.get_inputs()[0].name: images[:batch].numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), net(images[:batch]), rtol=1e-5, atol=1e-5)
