import json
import re

import numpy as np
import pytest
import torch

import train
from config import run_folder
from tests.training.group import Group
from tests.training.runs import SMALL, experiment, outcome
from tests.training.test_distributed import SMOOTH, SMOOTH_NET
from tests.training.test_run import interrupt_at
from training import lr_find
from training.lr_find import LOWEST, STEPS, diverges, line, suggest

RATES = np.geomspace(1e-6, 10, STEPS)


def curve(noise, seed, start=-4.0, end=-2.0, high=2.3, low=0.5):
    """Losses that fall between two powers of ten and then rise, and their noise."""
    places = np.log10(RATES)
    part = np.clip((places - start) / (end - start), 0, 1)
    fallen = high + (low - high) * part**2 * (3 - 2 * part)
    risen = np.clip(places - end - 0.7, 0, None) ** 2
    return fallen + risen + noise * np.random.default_rng(seed).normal(size=STEPS)


def find(path, data, *options):
    return train.main(["--data_dir", str(data), "--model_dir", str(path), "--lr_find", *options])


def report(path):
    return json.loads((path / run_folder.LR_FIND).read_text())


@pytest.fixture
def quick(monkeypatch):
    """A third of the steps."""
    monkeypatch.setattr(lr_find, "STEPS", 40)


def test_four_fifths_of_the_fall_whatever_the_noise():
    found = suggest(RATES, curve(0, 0))
    where = 10**-2.574  # p² (3 - 2 p) is 0.8 at p = 0.713 of the two powers of ten
    assert found.suggested == pytest.approx(where, rel=0.15)
    assert found.steepest == pytest.approx(1e-3, rel=0.3)
    assert 6e-3 < found.lowest < 3e-2
    noisy = [suggest(RATES, curve(0.2, seed)).suggested for seed in range(200)]
    assert sorted(noisy)[-4] < 2 * where
    assert min(noisy) > where / 2


@pytest.mark.parametrize("start", [-5.0, -3.0, -2.0])
def test_the_suggestion_moves_with_the_slope(start):
    found = suggest(RATES, curve(0.1, 1, start, start + 2))
    assert found.suggested == pytest.approx(10 ** (start + 1.43), rel=0.5)


def test_no_slope_no_suggestion():
    flat = [suggest(RATES, curve(0.2, seed, high=2.3, low=2.3)).suggested for seed in range(100)]
    assert flat.count(None) >= 97
    assert suggest(RATES, 2.3 + np.clip(np.log10(RATES) + 3, 0, None)).suggested is None


def test_a_straight_line_is_smoothed_to_itself():
    smoothed, slopes = lr_find._smooth(np.log10(RATES), 3 - 2 * np.log10(RATES))
    np.testing.assert_allclose(smoothed, 3 - 2 * np.log10(RATES), atol=1e-9)
    np.testing.assert_allclose(slopes, -2, atol=1e-9)


def test_what_counts_as_diverged():
    assert diverges([2.3, float("nan")])
    assert diverges([2.3] * 5 + [1.0] * 20 + [4.8] * 3)
    assert not diverges([2.3] * 5 + [1.0] * 20 + [4.8])  # one step alone
    assert not diverges([0.1] * 5 + [0.9] * 3)  # nine times as much, and still little


def test_the_line_can_be_pasted():
    for suggested in (0.00062, [0.0, 1e-05, 0.003], {"low": 1e-05, "high": 0.003}):
        assert "e-" not in line(suggested)
        assert json.loads("{" + line(suggested) + "}") == {"learning_rate": suggested}


KINDS = {  # changes to a small training, and which of its layer groups train
    "plain": ({}, [True, True, True]),
    "a_group_at_zero": (
        {"learning_rate": [0, 0.001, 0.01], "precision": "bf16", "gradient_accumulation": 2, "batch_size": 4},
        [False, True, True],
    ),
    "frozen_body": (
        {"learning_rate": {"low": 0.0001, "high": 0.01}, "freeze": "body", "ema_decay": 0.9, "optimizer": "SGD"},
        [False, False, True],
    ),
    "gradual": (
        {"freeze": "gradual", "progressive_resizing": {"im_sz": 8, "epochs": 2}, "mixup": 0.2},
        [True, True, True],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_experiment_that_was_never_trained(tiny_data, tmp_path, quick, capsys, kind):
    changes, trains = KINDS[kind]
    path = experiment(tmp_path / "x", **changes)
    assert find(path, tiny_data) == 0
    assert {p.name for p in path.iterdir()} == {
        *(run_folder.PARAMS, run_folder.LOCK, run_folder.MANIFEST, run_folder.LR_FIND, run_folder.LR_FIND_FIGURE)
    }
    found = report(path)
    assert found["rates"][0] == LOWEST
    assert len(found["losses"]) == len(found["rates"]) == len(found["smoothed"]) > 20
    pasted = json.loads("{" + re.findall('"learning_rate": .*', capsys.readouterr().out)[-1] + "}")
    assert pasted == {"learning_rate": found["suggested"]}
    assert type(found["suggested"]) is type(changes.get("learning_rate", 0.01))
    assert [rate is not None for rate in found["groups"]] == trains
    (path / run_folder.PARAMS).write_text(json.dumps(SMALL | changes | pasted | {"num_epochs": 1}))
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(path)]) == 0


@pytest.mark.slow
def test_a_half_trained_run_goes_on_as_if_nothing_had_been(tiny_data, tmp_path, monkeypatch, quick, capsys):
    reference = experiment(tmp_path / "reference", num_epochs=2)
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(reference)]) == 0
    path = experiment(tmp_path / "x", num_epochs=2)
    command = ["--data_dir", str(tiny_data), "--model_dir", str(path)]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        assert train.main(command) == 143
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != run_folder.MANIFEST}
    random = torch.get_rng_state()
    assert find(path, tiny_data) == 0
    assert "has been trained; the test starts from the weights it started from" in capsys.readouterr().out
    assert torch.equal(torch.get_rng_state(), random)
    assert {p: p.read_bytes() for p in before} == before
    assert train.main(command) == 0
    assert outcome(path) == outcome(reference)

    fresh = experiment(tmp_path / "fresh", num_epochs=2)
    assert find(fresh, tiny_data) == 0
    assert report(fresh) == report(path)


@pytest.mark.slow
def test_the_weights_are_those_of_the_run(tiny_data, tmp_path, quick):
    other = experiment(tmp_path / "other", num_epochs=1)
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(other)]) == 0
    path = experiment(tmp_path / "x", pretrain=str(other))
    assert find(path, tiny_data) == 0
    random = experiment(tmp_path / "random")
    assert find(random, tiny_data) == 0
    assert report(path)["losses"][0] < report(random)["losses"][0]


@pytest.mark.slow
def test_processes_find_what_one_finds(tmp_path, tiny_data):
    group = Group(tmp_path)
    try:
        paths = [experiment(tmp_path / str(count), batch_size=11, **SMOOTH) for count in (1, 2)]
        for count, path in enumerate(paths, start=1):
            (path / "net.py").write_text(SMOOTH_NET)
            ended = group.train(count, path, tiny_data, "--lr_find")
            assert ended.codes == [0] * count, ended.err
        one, two = (report(path)["losses"] for path in paths)
        np.testing.assert_allclose(one[:60], two[:60], rtol=1e-3)
    finally:
        group.close()


def test_nothing_is_suggested_where_nothing_falls(tiny_data, tmp_path, quick, capsys, monkeypatch):
    monkeypatch.setattr(lr_find, "HIGHEST", 1e-5)
    path = experiment(tmp_path / "x")
    assert find(path, tiny_data) == 0
    assert "does not fall at any rate" in capsys.readouterr().out
    assert report(path)["suggested"] is None
    assert report(path)["groups"] == [None] * 3


def test_a_loss_that_is_never_finite(tiny_data, tmp_path, capsys):
    path = experiment(tmp_path / "x", arch="net.py", learning_rate=[0.01], layer_groups=1)
    (path / "net.py").write_text(
        "from torch import nn\n"
        "def build_net(params, num_classes):\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * params.im_sz**2, num_classes))\n"
        "    nn.init.constant_(net[1].bias, float('nan'))\n"
        "    return net\n"
    )
    assert find(path, tiny_data) == 4
    assert "not finite at the lowest rates already" in capsys.readouterr().err


def test_options_that_would_change_something_are_refused(tiny_data, tmp_path, capsys):
    path = experiment(tmp_path / "x")
    assert find(path, tiny_data, "--overwrite") == 2
    assert "leave out --overwrite" in capsys.readouterr().err
