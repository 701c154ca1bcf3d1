"""The checkpoint: one sealed file, the one before it, and all that a run goes on from."""

import hashlib
import io
import math
import pickle
import random
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from config.run_folder import CHECKPOINT, CHECKPOINT_PREVIOUS, RunFolder
from training import checkpoint
from training.checkpoint import Progress, Seen
from utils import TrainingFault, UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    return RunFolder(tmp_path)


def some_state(epoch):
    return {"progress": {"epoch": epoch}, "learning": {"net": {"w": torch.arange(6.0).reshape(2, 3) + epoch}}}


def damage(folder, *names):
    for name in names:
        folder.file(name).write_bytes(folder.file(name).read_bytes()[:-40])


# --- the file --------------------------------------------------------------------------------------------------------


def test_round_trip():
    state = checkpoint.decode(checkpoint.encode(some_state(3)))
    assert set(state) == {"progress", "learning", "version"}
    assert state["progress"] == {"epoch": 3}
    assert torch.equal(state["learning"]["net"]["w"], some_state(3)["learning"]["net"]["w"])


def test_the_file_is_in_memory_once():
    """Beside the state itself: a net of 31 million parameters, Adam and the last epochs' weights fill a gigabyte."""
    tracemalloc.start()
    data = checkpoint.encode({"weights": torch.zeros(2**21)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data) > 2**23
    assert peak < 1.5 * len(data)


def test_reading_it_makes_one_copy_of_the_state():
    data = checkpoint.encode({"weights": torch.zeros(2**21)})
    tracemalloc.start()
    checkpoint.decode(data)  # tensors are not what is traced
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * len(data)


def test_the_seal_is_the_last_one():
    for text in (checkpoint.MAGIC.decode(), "0" * 64):
        assert checkpoint.decode(checkpoint.encode({"text": text}))["text"] == text


def test_loads_as_a_torch_file(tmp_path):
    path = tmp_path / "c.pt"
    path.write_bytes(checkpoint.encode(some_state(1)))
    assert torch.load(path, weights_only=True)["progress"]["epoch"] == 1


def test_a_gpus_checkpoint_is_read_onto_the_cpu(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        data = checkpoint.encode(some_state(1))
    assert checkpoint.decode(data)["learning"]["net"]["w"].device.type == "cpu"


def test_every_damage_is_noticed():
    data, draw = checkpoint.encode(some_state(1)), random.Random(0)
    for _ in range(300):
        position = draw.randrange(len(data))
        flipped = bytearray(data)
        flipped[position] ^= 1 << draw.randrange(8)
        cut = data[: draw.randrange(len(data))]
        for bad in (bytes(flipped), cut, cut + bytes(len(data) - len(cut)), data + b"x"):
            with pytest.raises(ValueError, match=r"^its sha256 is not the one it ends in$"):
                checkpoint.decode(bad)


def test_another_version_is_refused(monkeypatch):
    data = checkpoint.encode(some_state(1))
    monkeypatch.setattr(checkpoint, "VERSION", 99)
    with pytest.raises(ValueError, match=r"^it has version 1, this program reads 99$"):
        checkpoint.decode(data)


class _Code:
    """What a pickle would run when it is read."""

    def __reduce__(self):
        return print, ("run",)


def test_what_somebody_else_sealed_is_refused(capsys):
    code, other = io.BytesIO(), io.BytesIO()
    torch.save({"version": 1, "net": _Code()}, code)
    torch.save([1], other)
    unreadable = "it is no state of a training, or it holds code"
    messages = {
        b"": unreadable,
        pickle.dumps({"version": 1}): unreadable,
        code.getvalue(): unreadable,
        other.getvalue(): "it has version None, this program reads 1",
    }
    for body, message in messages.items():
        with pytest.raises(ValueError, match=f"^{message}$"):
            checkpoint.decode(body + checkpoint.MAGIC + hashlib.sha256(body).hexdigest().encode())
    assert capsys.readouterr().out == ""


# --- the folder ------------------------------------------------------------------------------------------------------


def test_none_before_the_first(folder):
    assert checkpoint.load(folder) is None
    assert not checkpoint.exists(folder)


def test_damaged_newest_falls_back_to_the_one_before(folder, caplog):
    checkpoint.save(folder, some_state(1))
    checkpoint.save(folder, some_state(2))
    assert checkpoint.load(folder)["progress"]["epoch"] == 2
    assert caplog.messages == []
    damage(folder, CHECKPOINT)
    assert checkpoint.load(folder)["progress"]["epoch"] == 1
    assert checkpoint.exists(folder)
    assert caplog.messages == [
        f"{folder}/checkpoint.pt: damaged (its sha256 is not the one it ends in); continuing from checkpoint.prev.pt"
    ]


def test_missing_newest_falls_back_too(folder, caplog):
    checkpoint.save(folder, some_state(1))
    checkpoint.save(folder, some_state(2))
    folder.file(CHECKPOINT).unlink()
    assert checkpoint.load(folder)["progress"]["epoch"] == 1
    assert checkpoint.exists(folder)
    assert caplog.messages == []


def test_the_newest_is_enough(folder):
    checkpoint.save(folder, some_state(1))
    assert not folder.file(CHECKPOINT_PREVIOUS).exists()
    assert checkpoint.exists(folder)
    assert checkpoint.load(folder)["progress"]["epoch"] == 1


def test_no_intact_checkpoint_is_said(folder):
    checkpoint.save(folder, some_state(1))
    checkpoint.save(folder, some_state(2))
    damage(folder, CHECKPOINT)
    folder.file(CHECKPOINT_PREVIOUS).unlink()
    folder.file(CHECKPOINT_PREVIOUS).mkdir()
    with pytest.raises(UserError) as caught:
        checkpoint.load(folder)
    assert str(caught.value) == (
        f"{folder}/checkpoint.pt: damaged (its sha256 is not the one it ends in); "
        f"{folder}/checkpoint.prev.pt: damaged ([Errno 21] Is a directory: '{folder}/checkpoint.prev.pt'); "
        "use --overwrite to train again from the start"
    )
    assert not checkpoint.exists(folder)


def test_a_folders_name_stays_on_one_line(tmp_path):
    path = tmp_path / "a\nb\x1b[31m"
    path.mkdir()
    (path / "params.json").touch()
    (path / CHECKPOINT).mkdir()
    with pytest.raises(UserError) as caught:
        checkpoint.load(RunFolder(path))
    assert str(caught.value).isprintable()


# --- where a run stands ----------------------------------------------------------------------------------------------


def test_progress_survives():
    before = Progress(epoch=2, batch=3, step=11, seconds=1.5, epoch_seconds=0.25, best={"epoch": 1})
    before.history["epochs"].append({"epoch": 1})
    before.seen.add(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64), torch.tensor(0.625))
    after = Progress()
    after.load_state_dict(checkpoint.decode(checkpoint.encode(before.state_dict())))
    seen_before, seen_after = before.__dict__.pop("seen"), after.__dict__.pop("seen")
    assert after.__dict__ == before.__dict__
    for seen in (seen_before, seen_after):  # what came before the restart and what comes after it are one
        seen.add(torch.full((2, 2), 7.0), torch.ones(2, dtype=torch.int64), torch.tensor(1.0))
        assert (seen.images, seen.loss_sum) == (6, 4.5)
        logits, labels = seen.outputs()
        np.testing.assert_array_equal(logits, [[1, 1]] * 4 + [[7, 7]] * 2)
        np.testing.assert_array_equal(labels, [0] * 4 + [1] * 2)


def test_nothing_seen_survives_too():
    after = Seen()
    after.add(torch.ones(1, 2), torch.ones(1), torch.tensor(1.0))
    after.load_state_dict(checkpoint.decode(checkpoint.encode(Seen().state_dict())))
    assert after == Seen()


def test_no_state_with_a_gradient_that_is_not_finite_is_passed_over():
    state = Progress()
    state.norms += [torch.tensor(1.0), torch.tensor(2.0)]
    assert math.isnan(state.look())  # nothing was seen yet
    state.norms += [torch.tensor(1.0), torch.tensor(math.inf), torch.tensor(3.0)]
    with pytest.raises(TrainingFault, match=r"^the gradient is not finite: lower learning_rate, or set") as caught:
        state.look()
    assert caught.value.reason == "diverged"


class Part:
    """What stands for a tensor on a device, and may be moved to the CPU once."""

    def __init__(self, number, device):
        self.number, self.device = number, SimpleNamespace(type=device)

    def cpu(self):
        assert self.device.type != "cpu"
        return Part(self.number, "cpu")


def test_a_look_moves_the_outputs_to_the_cpu_that_are_not_there():
    state = Progress()
    state.seen.logits = [Part(0, "cpu"), Part(1, "cuda"), Part(2, "cuda"), Part(3, "cuda")]
    state.seen.labels = [Part(number, "cuda") for number in range(4)]
    for _ in range(2):
        state.look()
        for parts in (state.seen.logits, state.seen.labels):
            assert [(part.number, part.device.type) for part in parts] == [(number, "cpu") for number in range(4)]


def gathered(*processes):
    """What the processes have seen, as the first and the others hold it after gathering."""
    sent = []
    for seen in processes:
        seen.gather(lambda tensors: sent.append(tensors) or [])
    first = Seen()
    first.gather(lambda _: sent)
    return first, processes[1:]


def test_what_all_have_seen_is_gathered_in_the_first():
    one, two, nothing = Seen(), Seen(), Seen()
    one.add(torch.tensor([[1.0, 2.0]]), torch.tensor([1]), torch.tensor(0.5))
    two.add(torch.tensor([[3.0, 4.0], [5.0, 6.0]]), torch.tensor([0, 1]), torch.tensor(2.0))
    two.add(torch.tensor([[7.0, 8.0]]), torch.tensor([0]), torch.tensor(1.0))
    sent: list[dict[str, torch.Tensor]] = []
    one.gather(lambda tensors: sent.append(tensors) or [tensors])
    assert sent[0].keys() == {"sums", "logits", "labels"}
    assert sent[0]["sums"].dtype == torch.float64  # float32 counts to 16 million
    first, others = gathered(one, two, nothing)
    logits, labels = first.outputs()
    assert logits.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]
    assert labels.tolist() == [1, 0, 1, 0]
    assert first.images == 4
    assert first.loss == pytest.approx((0.5 + 2 * 2.0 + 1.0) / 4)
    for other in others:
        assert other == Seen()
    assert math.isnan(Seen().loss)


def test_a_saved_history_does_not_follow_the_running_one():
    state = Progress()
    saved = state.state_dict()
    state.history["epochs"].append({"epoch": 1})
    assert saved["history"] == {"epochs": [], "steps": [], "stop": None}


# --- outputs ---------------------------------------------------------------------------------------------------------


def test_npz_bytes():
    arrays = {"logits": np.eye(2, dtype=np.float32), "paths": ["a/1.png", "ü"]}
    data = checkpoint.npz_bytes(**arrays)
    assert data == checkpoint.npz_bytes(**arrays)
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        assert sorted(found) == ["logits", "paths"]
        assert found["logits"].dtype == np.float32
        np.testing.assert_array_equal(found["logits"], arrays["logits"])
        assert found["paths"].tolist() == arrays["paths"]
    with pytest.raises(ValueError, match="allow_pickle"):
        checkpoint.npz_bytes(objects=[object()])
