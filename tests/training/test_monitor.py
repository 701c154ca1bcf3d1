import numpy as np
import pytest
import torch
from torch import nn

import train
from config import run_folder
from config.parts import Monitor as Settings
from tests.training.group import Group
from tests.training.runs import experiment, outcome
from tests.training.test_distributed import SMOOTH, SMOOTH_NET
from tests.training.test_run import interrupt_at
from training import monitor as monitor_module
from training import monitor_plots
from training.checkpoint import Progress
from training.monitor import BINS, CHECKS, Monitor

WATCHED = {"monitor": {"interval": 1}}
EVERY_STEP = Settings(interval=1)


def run(path, data, *options):
    return train.main(["--data_dir", str(data), "--model_dir", str(path), *options])


def found(path):
    return dict(np.load(path / run_folder.MONITOR))


def warnings(path):
    return [line.partition(" WARNING ")[2] for line in (path / run_folder.LOG).read_text().splitlines()
            if " WARNING step " in line]  # fmt: skip


# --- what is measured ------------------------------------------------------------------------------------------------


class Small:
    """A net of two layers, its optimizer and its monitor."""

    def __init__(self, settings=EVERY_STEP, rate=0.1):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.groups = [["0.weight", "0.bias"], ["2.weight", "2.bias"]]
        options = [
            {"params": [self.net.get_parameter(name) for name in names], "group": index, "lr": rate, "max_lr": rate}
            for index, names in enumerate(self.groups)
        ]
        self.optimizer = torch.optim.SGD(options)
        self.monitor = Monitor(self.net, self.groups, self.optimizer, settings)
        self.images = torch.randn(16, 6)
        self.step = 0

    def train(self, scale=1.0):
        self.monitor.before_step(Progress(step=self.step))
        (scale * self.net(self.images).square().mean()).backward()
        self.monitor.before_update()
        self.optimizer.step()
        self.monitor.after_update()
        self.optimizer.zero_grad()
        self.step += 1


def test_numbers_are_those_of_a_calculation_by_hand():
    small = Small()
    before = [[small.net.get_parameter(name).detach().double() for name in names] for names in small.groups]
    hidden = small.net[:2](small.images).detach().double()
    logits = small.net(small.images)
    gradients = torch.autograd.grad(logits.square().mean(), list(small.net.parameters()))
    small.train()
    rows = {name: values[0] for name, values in small.monitor.rows.items()}
    norms = [float(torch.cat([g.flatten() for g in pair]).norm()) for pair in (gradients[:2], gradients[2:])]
    weights = [float(torch.cat([w.flatten() for w in pair]).norm()) for pair in before]
    np.testing.assert_allclose(rows["gradient"], norms, rtol=1e-5)
    assert rows["total"] == pytest.approx(np.hypot(*norms), rel=1e-5)
    np.testing.assert_allclose(rows["update"], [0.1 * n / w for n, w in zip(norms, weights, strict=True)], rtol=1e-4)
    np.testing.assert_allclose(rows["layer_gradient"], [float(g.square().mean().sqrt()) for g in gradients[::2]],
                               rtol=1e-5)  # fmt: skip
    outputs = (hidden, logits.detach().double())  # the first layer's activation is its ReLU's output
    np.testing.assert_allclose(rows["mean"], [float(x.mean()) for x in outputs], rtol=1e-4)
    np.testing.assert_allclose(rows["std"], [float(x.std(correction=0)) for x in outputs], rtol=1e-4)
    np.testing.assert_equal(rows["dead"], [0, np.nan])  # what logits are put through is not known
    (column,) = small.monitor.columns
    assert column.shape == (2, 3, BINS)
    assert column.sum(dim=2).tolist() == [[48, 48, 128], [24, 24, 48]]


def test_a_part_of_the_units_is_dead():
    small = Small()
    with torch.no_grad():
        small.net[0].bias[:3] = -100
    small.train()
    assert small.monitor.rows["dead"][0][0] == 0.375
    small.net[1] = nn.Identity()  # and where the ReLU is no module
    small.net[2].register_forward_pre_hook(lambda module, inputs: (inputs[0].relu(),))
    small.train()
    assert small.monitor.rows["dead"][1][0] == 0.375


def test_only_what_is_asked_for_and_only_when_it_is():
    small = Small(Settings(interval=3, what=["updates"]))
    for _ in range(7):
        small.train()
        assert not any(module._forward_hooks for module in small.net.modules())
    assert [int(step) for step in small.monitor.rows["step"]] == [0, 3, 6]
    assert "update" in small.monitor.rows
    assert "std" not in small.monitor.rows
    assert not small.monitor.columns
    off = Small(None)
    off.train()
    assert not off.monitor.rows


def test_histograms_count_magnitudes():
    values = torch.tensor([0.0, 1e-9, -2e-3, 2e-3, 50.0, 1e9])
    counts = monitor_module._histogram(values, -6)
    assert counts.sum() == 6
    assert counts[0] == 2  # zero, and less than the least
    assert counts[int((np.log10(2e-3) + 6) * 4)] == 2
    assert counts[int((np.log10(50) + 6) * 4)] == 1
    assert counts[-1] == 1


def test_a_sample_follows_no_rhythm_of_the_shape():
    images = torch.arange(128.0).repeat(64, 32, 16, 1)  # the value is the column
    sample = monitor_module._sampled(images)
    assert len(sample) == monitor_module.SAMPLE
    assert len(sample.unique()) == 128


def test_columns_are_joined_when_they_are_many(monkeypatch):
    monkeypatch.setattr(monitor_module, "COLUMNS", 4)
    small = Small()
    for looks in range(1, 20):
        small.train()
        assert len(small.monitor.columns) <= 4
        assert sum(int(column[0, 0].sum()) for column in small.monitor.columns) == 48 * looks
    assert small.monitor.per_column == 8


def test_a_state_is_taken_over():
    first, second = Small(), Small()
    for _ in range(3):
        first.train()
    second.monitor.load_state_dict(first.monitor.state_dict())
    second.net.load_state_dict(first.net.state_dict())
    second.step = 3
    for small in (first, second):
        small.train()
    for name, values in first.monitor.arrays().items():
        np.testing.assert_array_equal(values, second.monitor.arrays()[name])


# --- what is said ----------------------------------------------------------------------------------------------------


def test_exploding_gradients_are_said_once(caplog):
    small = Small(rate=0.0)
    for scale in (1,) * 8 + (1000,) * (CHECKS + 2):
        small.train(scale)
    (said,) = [record.getMessage() for record in caplog.records if "explode" in record.getMessage()]
    assert said.startswith("step 10: gradients explode")
    assert "gradient_clip" in said


FAULTS = {
    "a_dead_layer": (
        {"arch": "net.py"},
        "nn.init.constant_(net[2].bias, -100.0)",
        "layer 2: 100% of its units are 0 for every image (they are dead)",
    ),
    "a_huge_rate": ({"learning_rate": 50.0, "scheduler": "constant"}, "", "layer group 2 moves too much"),
    "a_group_that_stays": (
        {"learning_rate": [0.01, 1e-10, 0.01], "scheduler": "constant"},
        "",
        "layer group 1 hardly moves",
    ),
    "vanishing": (
        {"arch": "net.py"},
        "net = nn.Sequential(*net[:6], *[m for _ in range(20) for m in (nn.Linear(8, 8), nn.Sigmoid())], *net[6:])",
        "gradients vanish",
    ),
}
NET = """
from torch import nn

def build_net(params, num_classes):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 8), nn.Linear(8, num_classes)
    )
    PLANTED
    return net
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_said_once(tiny_data, tmp_path, fault):
    changes, planted, message = FAULTS[fault]
    path = experiment(tmp_path / "x", **(WATCHED | {"num_epochs": 2} | changes))
    (path / "net.py").write_text(NET.replace("PLANTED", planted or "pass"))
    assert run(path, tiny_data) == 0
    assert len([line for line in warnings(path) if message in line]) == 1
    assert all("learning_rate" in line or "ReLU" in line for line in warnings(path))  # a remedy


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.003},
        {"learning_rate": [0, 0.001, 0.003]},
        {"freeze": "gradual", "optimizer": "SGD", "learning_rate": 0.05},
        {"arch": "resnet18", "im_sz": 32, "batch_norm": "train", "learning_rate": 0.001, "num_epochs": 1},
    ],
    ids=["plain", "held", "gradual", "resnet"],
)
def test_nothing_is_said_of_a_training_that_is_well(tiny_data, tmp_path, changes):
    path = experiment(tmp_path / "x", **(WATCHED | changes))
    assert run(path, tiny_data) == 0
    assert warnings(path) == []
    assert len(found(path)["step"]) == 3 * changes.get("num_epochs", 3)


# --- in a training ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"gradient_accumulation": 2, "batch_size": 4, "ema_decay": 0.9, "freeze": "gradual", "gradient_clip": 0.1}],
    ids=["plain", "rich"],
)
def test_it_changes_nothing_and_survives_interruptions(tiny_data, tmp_path, monkeypatch, changes):
    plain = experiment(tmp_path / "plain", **changes)
    assert run(plain, tiny_data) == 0
    assert not (plain / run_folder.MONITOR).exists()
    whole = experiment(tmp_path / "whole", **WATCHED, **changes)
    assert run(whole, tiny_data) == 0
    assert outcome(whole) == outcome(plain)
    assert {*run_folder.MONITORED} <= {p.name for p in whole.iterdir()}
    for moment in (2, 11):
        path = experiment(tmp_path / str(moment), **WATCHED, **changes)
        with monkeypatch.context() as patch:
            interrupt_at(patch, moment)
            assert run(path, tiny_data) == 143
        assert run(path, tiny_data) == 0
        assert outcome(path) == outcome(plain)
        assert (path / run_folder.MONITOR).read_bytes() == (whole / run_folder.MONITOR).read_bytes()
    assert found(whole)["step"].tolist() == list(range(9))
    assert found(whole)["epoch"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_it_can_be_switched_on_and_off_on_the_way(tiny_data, tmp_path, monkeypatch):
    path = experiment(tmp_path / "x", num_epochs=2)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        assert run(path, tiny_data) == 143
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)  # after one step, two batches of valid, and another step
        assert run(path, tiny_data, "--set", 'monitor={"interval": 1}') == 143
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        assert run(path, tiny_data) == 143
    assert run(path, tiny_data, "--set", 'monitor={"interval": 1}') == 0
    assert found(path)["step"].tolist() == [2, 3, 5]  # not the two before it was on, nor the one while it was off


@pytest.mark.slow
def test_gradients_are_those_before_scaling_and_clipping(tiny_data, tmp_path):
    changes = {
        "plain": {},
        "scaled": {"precision": "fp16"},
        "clipped": {"gradient_clip": 1e-3},
        "accumulated": {"gradient_accumulation": 2, "batch_size": 4},
    }
    first = {}
    for name, change in changes.items():
        path = experiment(
            tmp_path / name, augment=[], ps=0, batch_norm="all_eval", **(WATCHED | {"num_epochs": 1} | change)
        )
        assert run(path, tiny_data) == 0
        first[name] = found(path)["total"][0]
    assert first["clipped"] == first["plain"]
    assert first["scaled"] == pytest.approx(first["plain"], rel=0.2)
    assert first["accumulated"] == pytest.approx(first["plain"], rel=1e-4)


@pytest.mark.slow
def test_processes_see_what_one_sees(tmp_path, tiny_data):
    group = Group(tmp_path)
    try:
        seen = []
        for count in (1, 2):
            path = experiment(tmp_path / str(count), batch_size=11, monitor={"interval": 1}, **SMOOTH)
            (path / "net.py").write_text(SMOOTH_NET)
            ended = group.train(count, path, tiny_data)
            assert ended.codes == [0] * count, ended.err
            seen.append(found(path))
        for name in ("gradient", "update", "total"):
            np.testing.assert_allclose(seen[0][name], seen[1][name], rtol=1e-3)
        assert seen[0]["step"].tolist() == seen[1]["step"].tolist()
    finally:
        group.close()


# --- the pictures ----------------------------------------------------------------------------------------------------


def test_sixty_layers_are_drawn():
    random = np.random.default_rng(0)
    looks, layers = 40, 60
    arrays = {
        "step": np.arange(looks) * 50,
        "gradient": random.lognormal(size=(looks, 3)),
        "std": random.lognormal(size=(looks, layers)),
        "dead": np.full((looks, layers), np.nan),
        "histograms": random.integers(0, 4096, (looks, layers, 3, BINS)),
        "layers": [f"a_rather_long_name.of.a.block.{i}.$convolution^" for i in range(layers)],
    }
    for draw in (monitor_plots.curves, monitor_plots.histograms):
        picture = draw(arrays, "an $experiment^")
        assert picture.startswith(b"\x89PNG")
        assert draw(arrays, "an $experiment^") == picture


def test_a_strip_has_large_magnitudes_above():
    counts = np.zeros((2, 1, BINS), int)
    counts[0, 0, 0] = counts[1, 0, -1] = 9
    strip = monitor_plots.strips(counts)
    assert strip.shape == (BINS, 2)
    assert (strip[-1, 0], strip[0, 1]) == (1, 1)
    assert strip.sum() == 2


def test_long_names_are_shortened_in_the_middle():
    assert monitor_plots.shortened("stem.0") == "stem.0"
    short = monitor_plots.shortened("layer1." * 10 + "conv1")
    assert len(short) == monitor_plots.LONGEST_NAME
    assert short.startswith("layer1.")
    assert short.endswith("conv1")
