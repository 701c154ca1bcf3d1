"""Several processes and one: the same result, and one end for all of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from torch.distributed import HashStore  # type: ignore[attr-defined]

import include
import train
from config import run_folder
from config.run_folder import RunFolder
from config.schema import Params
from model.data_loader import Share, fetch_dataloader
from tests.training.group import Group
from tests.training.runs import experiment, history
from training.distributed import _meet

# Smooth, so that a rounding error stays one: at the kink of a ReLU it can decide whether a unit learns.
SMOOTH_NET = """
from torch import nn

def build_net(params, num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2), nn.BatchNorm2d(6), nn.Tanh(), nn.Conv2d(6, 8, 3, stride=2), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, num_classes)
    )
"""
SMOOTH = {"arch": "net.py", "optimizer": "SGD", "learning_rate": 0.05, "batch_norm": "train", "num_epochs": 2}
# 24 and 12 images. The last batch of 11 has 2 images, the last one of 5 in validation too: fewer than 3 processes.
UNEVEN = {"batch_size": 11, "bs_test": 5}
RICH = {
    "batch_size": 5,
    "mixup": 0.3,
    "cutmix": 0.5,
    "gradient_accumulation": 2,
    "gradient_clip": 0.5,
    "ema_decay": 0.9,
    "freeze": "gradual",
    "sampler": "weighted",
    "early_stopping": {"patience": 1, "monitor_metric": "loss"},
    "scheduler": "constant",
    "checkpoint_minutes": 1e-6,
    "num_epochs": 3,
}


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    group = Group(tmp_path_factory.mktemp("group"))
    yield group
    group.close()


@pytest.fixture(scope="module")
def by_one(group, tiny_data, tmp_path_factory):
    """UNEVEN as a single process trains it."""
    path = smooth(tmp_path_factory.mktemp("by_one") / "x", **UNEVEN)
    ended = group.train(1, path, tiny_data)
    assert ended.codes == [0], ended.err
    return path


def smooth(path, **changes):
    experiment(path, **SMOOTH | changes)
    (path / "net.py").write_text(SMOOTH_NET)
    return path


def weights(path, kind):
    return load((path / run_folder.weights_name(kind)).read_bytes())


def assert_alike(path, reference):
    """Equal but for the order of float sums."""
    for kind in run_folder.WEIGHTS:
        ours, theirs = weights(path, kind), weights(reference, kind)
        assert ours.keys() == theirs.keys()
        for name, values in ours.items():
            np.testing.assert_allclose(values, theirs[name], rtol=1e-3, atol=2e-4, err_msg=f"{kind} {name}")
    ours, theirs = history(path), history(reference)
    assert len(ours["epochs"]) == len(theirs["epochs"])
    for row, other in zip(ours["epochs"] + ours["steps"], theirs["epochs"] + theirs["steps"], strict=True):
        assert row.keys() == other.keys()
        assert numbers(row) == pytest.approx(numbers(other), rel=1e-4, abs=1e-5)
    first, second = (np.load(p / run_folder.PREDICTIONS_VALID) for p in (path, reference))
    assert first["paths"].tolist() == second["paths"].tolist()
    assert first["labels"].tolist() == second["labels"].tolist()
    np.testing.assert_allclose(first["logits"], second["logits"], rtol=1e-3, atol=1e-4)


def numbers(value):
    """All numbers in a row of the history."""
    if isinstance(value, dict):
        value = list(value.values())
    return [number for item in value for number in numbers(item)] if isinstance(value, list) else [value]


def state(path):
    status = RunFolder(path).status()
    return status["state"], status.get("reason")


# --- what each process takes ---


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 11])
def test_every_image_of_a_batch_counts_once(count, size):
    shares = [Share(index, count).of(size) for index in range(count)]
    counting = [image for first, _, counted in shares for image in range(first, first + counted)]
    assert counting == list(range(size))
    assert all(last > first for first, last, _ in shares)


@pytest.mark.parametrize("mixed", [{}, {"mixup": 0.4, "cutmix": 1.0}], ids=["plain", "mixed"])
def test_parts_make_up_the_batch(tiny_data, mixed):
    params = Params(arch="conv", im_sz=16, batch_size=10, cache="memory", num_workers=0, **mixed)
    whole = list(fetch_dataloader(["train"], tiny_data, params)["train"].batches(1))
    shares = [fetch_dataloader(["train"], tiny_data, params, share=Share(i, 3))["train"].batches(1) for i in range(3)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [part.total for part in parts] == [batch.total] * 3
        for number in range(4):
            torch.testing.assert_close(torch.cat([part[number] for part in parts]), batch[number], rtol=1e-5, atol=1e-5)


def test_they_meet_whatever_an_earlier_start_left():
    store, names = HashStore(), set()
    for count in (3, 3, 2, 3):
        with ThreadPoolExecutor(count) as pool:
            found = set(pool.map(lambda index, count=count: _meet(store, index, count), range(count)))
        assert len(found) == 1
        names |= found
    assert len(names) == 4


def test_processes_of_a_machine_share_decoded_images(tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))
    params = Params(arch="conv", im_sz=16, num_workers=0)
    for sharers, kind in ((1, "memory"), (2, "disk")):
        share = Share(0, 2, sharers)
        assert fetch_dataloader(["train"], tmp_path / "data", params, share=share)["train"].store.kind == kind


def test_variables_that_do_not_fit_together(tiny_data, tmp_path, monkeypatch, capsys):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "x"}.items():
        monkeypatch.setenv(name, value)
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(experiment(tmp_path / "x"))]) == 2
    assert "LOCAL_RANK, LOCAL_WORLD_SIZE: not set as torchrun sets it" in capsys.readouterr().err


# --- the same result ---


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_as_many_processes_as_one_likes(group, tiny_data, tmp_path, by_one, count):
    path = smooth(tmp_path / "x", **UNEVEN)
    ended = group.train(count, path, tiny_data)
    assert ended.codes == [0] * count, ended.err
    assert_alike(path, by_one)
    assert f"{count} processes (gloo)" in ended.out
    assert ended.out.count("epoch   1 ") == 1
    processes = json.loads((path / "environment.json").read_text())["processes"]
    assert processes == {"count": count, "on_this_machine": count, "backend": "gloo"}


@pytest.mark.slow
def test_with_everything(group, tiny_data, tmp_path):
    reference, path = smooth(tmp_path / "1", **RICH), smooth(tmp_path / "2", **RICH)
    for count, folder in ((1, reference), (2, path)):
        ended = group.train(count, folder, tiny_data)
        assert ended.codes == [0] * count, ended.err
    assert_alike(path, reference)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3)])
def test_continued_by_another_number_of_processes(group, tiny_data, tmp_path, by_one, before, after):
    path = smooth(tmp_path / "x", **UNEVEN)
    ended = group.train(before, path, tiny_data, disturb=[(before - 1, "training.loop:update", 5, "terminate")])
    assert ended.codes == [143] * before
    assert ended.err.count("the same command goes on") == 1
    assert state(path) == ("stopped", "signal")
    ended = group.train(after, path, tiny_data, "--exact")
    assert ended.codes == [2] * after
    assert ended.err.count("\n") == 1
    assert f"processes {before} -> {after}" in ended.err
    ended = group.train(after, path, tiny_data)
    assert ended.codes == [0] * after
    assert ended.out.count(f"processes {before} -> {after}") == 1
    assert_alike(path, by_one)


# --- one end for all ---


@pytest.mark.slow
@pytest.mark.parametrize(("count", "victim"), [(2, 0), (3, 1)])
def test_a_killed_process_ends_the_others(group, tiny_data, tmp_path, by_one, count, victim):
    path = smooth(tmp_path / "x", **UNEVEN)
    ended = group.train(count, path, tiny_data, disturb=[(victim, "training.loop:update", 5, "kill")])
    assert ended.codes == [-9 if index == victim else 4 for index in range(count)]
    assert ended.err.count("\n") == 1
    assert f"one of the {count} processes is gone" in ended.err
    if victim:
        assert state(path) == ("failed", "error")
        assert "is gone" in RunFolder(path).status()["message"]
        assert group.train(2, path, tiny_data).codes == [0, 0]
        assert_alike(path, by_one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "what", "code", "reason", "told"),
    [
        ("images.stream:Source.image", "user error", 2, "invalid", "one cannot read its image"),
        ("training.loop:update", "user error", 2, "invalid", "one cannot read its image"),
        ("training.loop:update", "bug", 4, "error", "ZeroDivisionError: a fault of the program"),
    ],
)
def test_what_one_process_meets_ends_all(group, tiny_data, tmp_path, where, what, code, reason, told):
    path = smooth(tmp_path / "x")
    ended = group.train(2, path, tiny_data, disturb=[(1, where, 2, what)])
    assert ended.codes == [code, code]
    assert state(path) == ("failed", reason)
    assert told in RunFolder(path).status()["message"]
    assert told in ended.err
    assert ended.err.count("\n") == 1
    if what == "bug":
        assert "Traceback" in (path / run_folder.LOG).read_text()


@pytest.mark.slow
def test_who_waits_for_a_frozen_process_still_hears_signals(group, tiny_data, tmp_path):
    path = smooth(tmp_path / "x")
    update = "training.loop:update"
    ended = group.train(2, path, tiny_data, disturb=[(0, update, 4, "be called"), (1, update, 5, "freeze")])
    assert ended.codes == [4, -9]
    assert state(path) == ("failed", "error")
    assert ended.err.count("one of the 2 processes is gone") == 1


@pytest.mark.slow
def test_what_all_meet_is_said_once(group, tiny_data, tmp_path):
    cases = [
        ({"arch": "resnet19"}, 2, "did you mean"),
        ({"n_clas": 9}, 2, "n_clas"),
        ({"batch_size": 1}, 2, "too few images to share among 2 processes"),
    ]
    for number, (changes, code, told) in enumerate(cases):
        ended = group.train(2, experiment(tmp_path / str(number), **changes), tiny_data)
        assert ended.codes == [code, code]
        assert told in ended.err
        assert ended.err.count("\n") == 1


@pytest.mark.slow
def test_the_folder_belongs_to_the_first_process(group, tiny_data, tmp_path):
    path = smooth(tmp_path / "x", num_epochs=1)
    holder = RunFolder(path)
    holder.lock()
    ended = group.train(2, path, tiny_data)
    holder.unlock()
    assert ended.codes == [3, 3]
    assert ended.err.count("is being trained by") == 1
    (path / run_folder.STOP).write_text('{"state": "pruned"}')
    assert group.train(2, path, tiny_data, "--set", "num_epochs=3").codes == [0, 0]
    assert state(path)[0] == "pruned"
    assert len(history(path)["epochs"]) == 1


@pytest.mark.slow
def test_different_data_are_refused(group, tiny_data, tmp_path):
    """What two machines with copies of their own may come to."""
    path = smooth(tmp_path / "x")
    ended = group.train(2, path, tiny_data, disturb=[(1, "training.run:scan", 1, "other data")])
    assert ended.codes == [2, 2]
    assert "fingerprint differ" in ended.err


# --- torchrun itself ---


def torchrun(path, data, *options):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", *options, "train.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [*command, "--data_dir", str(data), "--model_dir", str(path)],
        cwd=include.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_epoch(path, process):
    while not (path / run_folder.CHECKPOINT).is_file():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


@pytest.mark.slow
def test_torchrun_stops_and_starts_again(tiny_data, tmp_path):
    path = smooth(tmp_path / "x", num_epochs=400)
    process = torchrun(path, tiny_data)
    wait_for_epoch(path, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert state(path) == ("stopped", "signal"), out + err
    assert err.count("the same command goes on") == 1

    epochs = json.loads((path / run_folder.HISTORY).read_text())["epochs"]
    shutil.rmtree(path / run_folder.CODE)
    process = torchrun(path, tiny_data, "--max_restarts", "1")
    while len(json.loads((path / run_folder.HISTORY).read_text())["epochs"]) <= len(epochs):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    os.kill(RunFolder(path).status()["pid"], signal.SIGKILL)
    (path / run_folder.STOP).write_text("{}")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    assert out.count("continuing after epoch") == 2
    assert state(path)[0] == "stopped"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_gpus(tiny_data, tmp_path):
    """With a GPU for each process by nccl, else by gloo with both on one."""
    reference, path = smooth(tmp_path / "1", cuda=1, **UNEVEN), smooth(tmp_path / "2", cuda=1, **UNEVEN)
    backend = "nccl" if torch.cuda.device_count() > 1 else "gloo"
    for count, folder in ((1, reference), (2, path)):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), "train.py"]
        done = subprocess.run(
            [*command, "--data_dir", str(tiny_data), "--model_dir", str(folder)], cwd=include.ROOT, timeout=300
        )
        assert done.returncode == 0
    assert backend in json.loads((path / "environment.json").read_text())["processes"]["backend"]
    for name, values in weights(path, "last").items():
        np.testing.assert_allclose(values, weights(reference, "last")[name], rtol=1e-2, atol=1e-3, err_msg=name)
