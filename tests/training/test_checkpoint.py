import random

import pytest
import torch

from config.run_folder import CHECKPOINT, CHECKPOINT_PREVIOUS, RunFolder
from training import checkpoint
from training.checkpoint import Progress
from utils import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    return RunFolder(tmp_path)


def some_state(epoch):
    return {"progress": {"epoch": epoch}, "learning": {"net": {"w": torch.arange(6.0).reshape(2, 3) + epoch}}}


def test_round_trip():
    state = checkpoint.decode(checkpoint.encode(some_state(3)))
    assert state["progress"] == {"epoch": 3}
    assert torch.equal(state["learning"]["net"]["w"], some_state(3)["learning"]["net"]["w"])


def test_loads_as_a_torch_file(tmp_path):
    path = tmp_path / "c.pt"
    path.write_bytes(checkpoint.encode(some_state(1)))
    assert torch.load(path, weights_only=True)["progress"]["epoch"] == 1


def test_every_damage_is_noticed():
    data, draw = checkpoint.encode(some_state(1)), random.Random(0)
    for _ in range(300):
        position = draw.randrange(len(data))
        flipped = bytearray(data)
        flipped[position] ^= 1 << draw.randrange(8)
        cut = data[: draw.randrange(len(data))]
        for bad in (bytes(flipped), cut, cut + bytes(len(data) - len(cut)), data + b"x"):
            with pytest.raises(ValueError, match="sha256"):
                checkpoint.decode(bad)


def test_another_version_is_refused(monkeypatch):
    data = checkpoint.encode(some_state(1))
    monkeypatch.setattr(checkpoint, "VERSION", 99)
    with pytest.raises(ValueError, match="version 1, this program reads 99"):
        checkpoint.decode(data)


def test_none_before_the_first(folder):
    assert checkpoint.load(folder) is None


def test_damaged_newest_falls_back_to_the_one_before(folder):
    checkpoint.save(folder, some_state(1))
    checkpoint.save(folder, some_state(2))
    assert checkpoint.load(folder)["progress"]["epoch"] == 2
    folder.file(CHECKPOINT).write_bytes(folder.file(CHECKPOINT).read_bytes()[:-40])
    assert checkpoint.load(folder)["progress"]["epoch"] == 1


def test_missing_newest_falls_back_too(folder):
    checkpoint.save(folder, some_state(1))
    checkpoint.save(folder, some_state(2))
    folder.file(CHECKPOINT).unlink()
    assert checkpoint.load(folder)["progress"]["epoch"] == 1


def test_no_intact_checkpoint_is_said(folder):
    checkpoint.save(folder, some_state(1))
    checkpoint.save(folder, some_state(2))
    for name in (CHECKPOINT, CHECKPOINT_PREVIOUS):
        folder.file(name).write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoint\.pt: damaged.*--overwrite"):
        checkpoint.load(folder)


def test_progress_survives():
    before = Progress(epoch=2, batch=3, step=11, seconds=1.5)
    before.seen.add(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64), 0.625)
    after = Progress()
    after.load_state_dict(checkpoint.decode(checkpoint.encode(before.state_dict())))
    assert (after.epoch, after.batch, after.step, after.seconds) == (2, 3, 11, 1.5)
    assert after.seen.images == 4
    assert after.seen.loss_sum == 2.5


def test_a_saved_history_does_not_follow_the_running_one():
    state = Progress()
    saved = state.state_dict()
    state.history["epochs"].append({"epoch": 1})
    assert saved["history"]["epochs"] == []
