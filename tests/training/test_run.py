import dataclasses
import json
import os
import shutil
import signal
import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import include
import train
from config import run_folder
from config.run_folder import RunFolder
from tests.training.runs import SMALL, experiment, history, outcome
from training import curves, machine, recorder
from training import run as training_run


@pytest.fixture(scope="session")
def undisturbed(tiny_data, tmp_path_factory):
    path = experiment(tmp_path_factory.mktemp("runs") / "undisturbed")
    assert train.main(["--data_dir", str(tiny_data), "--model_dir", str(path)]) == 0
    return path


def run(path, data, *options):
    return train.main([str(path / "params.json"), "--data_dir", str(data), *options])


def test_leaves_a_whole_experiment_folder(undisturbed):
    expected = {
        *(run_folder.weights_name(kind) for kind in run_folder.WEIGHTS),
        *(run_folder.metrics_name("valid", kind) for kind in run_folder.WEIGHTS),
        *(
            "params_resolved.json",
            "history.json",
            "checkpoint.pt",
            "checkpoint.prev.pt",
            "train.log",
            "train_history.png",
        ),
        *("augm.json", "augm.pkl", "environment.json", "code", "code.diff", "predictions_valid.npz", "status.json"),
        *("manifest.json", "net_summary.txt", "params.json"),
    }
    assert expected <= {p.name for p in undisturbed.iterdir()}
    folder = RunFolder(undisturbed)
    assert all(folder.intact(name) for name in folder.digests())
    assert folder.status()["state"] == "finished"
    assert json.loads((undisturbed / "params.json").read_text()) == SMALL
    assert not list(undisturbed.rglob(".dossier-*"))


def test_says_why_it_computes_as_it_does(undisturbed):
    why = json.loads((undisturbed / "environment.json").read_text())["machine"]["why"]
    assert set(why) == {"device", "precision", "memory_format", "threads"}
    log = (undisturbed / "train.log").read_text()
    assert all(f"{name}: {reason}" in log for name, reason in why.items())


def test_history_holds_every_epoch_and_step(undisturbed):
    found = json.loads((undisturbed / "history.json").read_text())
    assert [row["epoch"] for row in found["epochs"]] == [1, 2, 3]
    assert [row["step"] for row in found["steps"]] == list(range(9))
    assert all(set(row) >= {"train", "valid", "learning_rate", "seconds", "images_per_second", "memory_mb"}
               for row in found["epochs"])  # fmt: skip
    assert len(found["epochs"][0]["learning_rate"]) == 3


def test_a_finished_run_is_left_alone(undisturbed, tiny_data, capsys):
    before = outcome(undisturbed)
    assert run(undisturbed, tiny_data) == 3
    assert "already finished; --overwrite" in capsys.readouterr().err
    assert outcome(undisturbed) == before


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_nothing(undisturbed, tiny_data, tmp_path, workers):
    path = experiment(tmp_path / "x", num_workers=workers, cache="none")
    assert run(path, tiny_data) == 0
    assert outcome(path) == outcome(undisturbed)


@pytest.mark.parametrize("changes", [{"cache": "none"}, {"cache": "disk"}, {"checkpoint_minutes": 1e-6}])
def test_how_images_are_kept_changes_nothing(undisturbed, tiny_data, tmp_path, changes):
    path = experiment(tmp_path / "x", **changes)
    assert run(path, tiny_data) == 0
    assert outcome(path) == outcome(undisturbed)


def test_another_seed_changes_the_result(undisturbed, tiny_data, tmp_path):
    path = experiment(tmp_path / "x", seed=1)
    assert run(path, tiny_data) == 0
    assert outcome(path)["history"] != history(undisturbed)


def interrupt_at(monkeypatch, moment):
    """Lets SIGTERM arrive at the pause point of this number."""
    seen, original = [0], recorder.Recorder.pause_point

    def pause_point(self, state):
        seen[0] += 1
        if seen[0] == moment:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, state)

    monkeypatch.setattr(recorder.Recorder, "pause_point", pause_point)
    return seen


RICH = {
    "progressive_resizing": {"im_sz": 8, "epochs": 2},
    "ema_decay": 0.9,
    "early_stopping": {"patience": 2},
    "mixup": 0.2,
    "gradient_accumulation": 2,
    "batch_size": 4,
    "freeze": "gradual",
    "scheduler": "cosine",
    "average_epochs": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, RICH], ids=["plain", "rich"])
def test_interrupted_anywhere_and_continued_is_the_same(tiny_data, tmp_path, monkeypatch, capsys, changes):
    reference = experiment(tmp_path / "reference", **changes)
    with monkeypatch.context() as patch:
        count = interrupt_at(patch, -1)
        assert run(reference, tiny_data) == 0
        moments = count[0]
    assert moments >= 12
    for moment in range(1, moments + 1):
        path = experiment(tmp_path / str(moment), **changes)
        with monkeypatch.context() as patch:
            interrupt_at(patch, moment)
            assert run(path, tiny_data) == 143
        assert RunFolder(path).status()["state"] == "stopped"
        assert "the same command goes on" in capsys.readouterr().err
        assert run(path, tiny_data) == 0
        assert outcome(path) == outcome(reference), f"interrupted at {moment} of {moments}"


def test_changed_params_are_refused_with_the_difference(tiny_data, tmp_path, monkeypatch, capsys):
    path = experiment(tmp_path / "x")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        assert run(path, tiny_data) == 143
    (path / "params.json").write_text(json.dumps(SMALL | {"wd": 0.5, "num_workers": 1}))
    capsys.readouterr()
    assert run(path, tiny_data) == 2
    message = capsys.readouterr().err
    assert "wd: 0.0001 -> 0.5" in message
    assert "num_workers" not in message
    assert "--overwrite" in message


def test_overwrite_keeps_the_earlier_results_aside(tiny_data, tmp_path):
    path = experiment(tmp_path / "x", num_epochs=1)
    assert run(path, tiny_data) == 0
    assert run(path, tiny_data, "--overwrite", "--set", "seed=3") == 0
    (aside,) = path.glob("before-*")
    assert (aside / "weights_best.safetensors").is_file()
    assert json.loads((path / "params_resolved.json").read_text())["seed"] == 3


def test_derived_files_are_repaired(tiny_data, tmp_path, monkeypatch):
    path = experiment(tmp_path / "x")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8)
        assert run(path, tiny_data) == 143
    (path / "weights_best.safetensors").write_bytes(b"damaged")
    (path / "history.json").unlink()
    (path / "manifest.json").unlink()
    assert run(path, tiny_data) == 0
    folder = RunFolder(path)
    assert folder.intact("weights_best.safetensors")
    assert folder.intact("history.json")


def test_curves_that_are_not_due_are_drawn_at_the_end(tiny_data, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        recorder, "plot_history", lambda history, _: drawn.append(len(history["epochs"])) or b"a figure"
    )
    monkeypatch.setattr(curves, "SHARE", 1e-9)
    assert run(experiment(tmp_path / "x", num_epochs=5), tiny_data) == 0
    assert drawn == [1, 2, 5]  # the first does not count


def test_the_mean_of_one_epoch_is_the_last(tiny_data, tmp_path):
    path = experiment(tmp_path / "x", num_epochs=2, average_epochs=1)
    assert run(path, tiny_data) == 0
    last, averaged = (load_file(path / run_folder.weights_name(kind)) for kind in ("last", "averaged"))
    assert all(torch.equal(last[name], averaged[name]) for name in last.keys() | averaged.keys())


def test_stop_json_stops_at_the_epochs_end(tiny_data, tmp_path):
    path = experiment(tmp_path / "x")
    (path / "stop.json").write_text('{"state": "pruned"}')
    assert run(path, tiny_data) == 0
    assert RunFolder(path).status()["state"] == "pruned"
    assert len(history(path)["epochs"]) == 1


@pytest.mark.parametrize(("content", "epochs"), [("", 1), ("[", 1), ("{}", 1), ('{"epoch": 2}', 2)])
def test_any_stop_json_is_a_request(tiny_data, tmp_path, content, epochs):
    path = experiment(tmp_path / "x")
    (path / "stop.json").write_text(content)
    assert run(path, tiny_data) == 0
    assert RunFolder(path).status()["state"] == "stopped"
    assert len(history(path)["epochs"]) == epochs


def test_a_run_that_is_over_is_finished_whatever_stop_json_asks(tiny_data, tmp_path):
    path = experiment(tmp_path / "x", num_epochs=2)
    (path / "stop.json").write_text('{"state": "pruned", "epoch": 2}')
    assert run(path, tiny_data) == 0
    assert RunFolder(path).status()["state"] == "finished"
    assert (path / "weights_averaged.safetensors").is_file()


@pytest.mark.parametrize("every", [1, 1000])
def test_divergence_is_a_fault_and_leaves_the_weights(tiny_data, tmp_path, capsys, every):
    values = {"learning_rate": 1e30, "optimizer": "SGD", "scheduler": "constant", "batch_norm": "train"}
    path = experiment(tmp_path / "x", save_summary_steps=every, **values)
    assert run(path, tiny_data) == 4
    assert not (path / "checkpoint.pt").exists()
    status = RunFolder(path).status()
    assert (status["state"], status["reason"]) == ("failed", "diverged")
    assert "learning_rate" in capsys.readouterr().err


class Waits(TorchDispatchMode):
    """Counts, by module and function of the project, how often a number is taken from a tensor: a GPU is waited for.

    model/loss.py's are one_hot's, which looks at its input on a CPU alone.
    """

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            ours = [f for f in traceback.extract_stack()[:-1] if Path(f.filename).parent.parent == include.ROOT]
            self.found[Path(ours[-1].filename).stem, ours[-1].name] += 1
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device(tiny_data, tmp_path):
    counts = []
    for batch_size in (3, 8):  # 8 steps in an epoch, or 3
        path = experiment(tmp_path / f"{batch_size}", num_epochs=2, batch_size=batch_size, save_summary_steps=1000)
        with Waits() as waits:
            assert run(path, tiny_data) == 0
        counts.append({where: count for where, count in waits.found.items() if where[0] != "loss"})
    assert counts[0] == counts[1]
    assert counts[0]["loop", "train_epoch"] == 1  # the first step's row in the history
    assert counts[0]["checkpoint", "look"] == 3  # with that row, and at the ends of the epochs


def test_overfit_reaches_everything(tiny_data, tmp_path):
    path = experiment(tmp_path / "x", num_epochs=12, batch_size=3)
    assert run(path, tiny_data, "--overfit", "6") == 0
    assert history(path)["epochs"][-1]["valid"]["accuracy"] == 1.0
    assert history(path)["epochs"][-1]["train"]["loss"] < 0.3


def test_overfit_that_fails_is_a_fault(tiny_data, tmp_path, capsys):
    path = experiment(tmp_path / "x", num_epochs=1, learning_rate=1e-6)
    assert run(path, tiny_data, "--overfit", "6") == 4
    assert "of 6 images were learnt by heart" in capsys.readouterr().err
    assert RunFolder(path).status()["state"] == "failed"


def test_a_second_process_is_refused(tiny_data, tmp_path, capsys):
    path = experiment(tmp_path / "x")
    holder = RunFolder(path)
    holder.lock()
    assert run(path, tiny_data) == 3
    assert f"process {os.getpid()} on " in capsys.readouterr().err
    holder.unlock()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_clas": 9}, "n_clas"),
        ({"arch": "resnet19"}, 'did you mean "resnet1'),
        ({"learning_rate": [0.1, 0.2], "layer_groups": 3}, "layer_groups"),
        ({"optimizer": "Adamw2"}, "AdamW"),
    ],
)
def test_bad_params_are_one_line(tiny_data, tmp_path, capsys, changes, expected):
    path = experiment(tmp_path / "x", **changes)
    assert run(path, tiny_data) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert error.count("\n") == 1


def test_no_such_folder(tiny_data, tmp_path, capsys):
    assert run(tmp_path / "absent", tiny_data) == 2
    assert "no such folder" in capsys.readouterr().err


def test_continuing_needs_the_weights_it_started_from_no_more(tiny_data, tmp_path, monkeypatch):
    started = experiment(tmp_path / "started", num_epochs=1)
    assert run(started, tiny_data) == 0
    given = {"pretrain": str(started)}
    reference, path = (experiment(tmp_path / name, **given) for name in ("reference", "path"))
    assert run(reference, tiny_data) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        assert run(path, tiny_data) == 143
    shutil.rmtree(started)
    assert run(path, tiny_data) == 0
    assert outcome(path) == outcome(reference)


def test_a_run_goes_on_in_a_precision_that_scales_gradients(tiny_data, tmp_path, monkeypatch):
    path = experiment(tmp_path / "x", precision="auto")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        assert run(path, tiny_data) == 143
    real = machine.choose_machine
    monkeypatch.setattr(
        training_run, "choose_machine", lambda *args: dataclasses.replace(real(*args), precision="fp16")
    )
    assert run(path, tiny_data) == 0
    assert RunFolder(path).status()["state"] == "finished"


def test_one_image_at_a_time_is_refused_where_nothing_can_be_learnt_from_it(tiny_data, tmp_path, capsys):
    assert run(experiment(tmp_path / "deep", arch="deep", batch_size=1), tiny_data) == 2
    assert "deep cannot be trained on one image at a time (Expected more than 1 value" in capsys.readouterr().err
    assert run(experiment(tmp_path / "conv", batch_size=1, num_epochs=1), tiny_data) == 0
