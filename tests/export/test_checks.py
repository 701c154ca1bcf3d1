import numpy as np
import pytest

from export import checks
from export.predictor import Predictor
from images.read import ImageError
from tests.conftest import write_image
from tests.export.models import contract, model
from utils import TrainingFault


def test_parity_notices_what_matters():
    random = np.random.default_rng(0)
    logits = random.normal(size=(50, 4)).astype(np.float32)

    def both(values):
        return np.exp(values) / np.exp(values).sum(1, keepdims=True), values

    assert checks.compared(both(logits), both(logits), False).of_range == 0
    near = checks.compared(both(logits), both(logits + np.float32(2e-5)), False)
    near.require("near")
    for apart in (both(logits * 1.01), both(logits[:, ::-1]), both(logits * np.nan)):
        with pytest.raises(TrainingFault, match="differs from PyTorch on 50 images"):
            checks.compared(both(logits), apart, False).require("apart")
    tie = np.array([[1.0, 1.0, 0.0]], np.float32)
    turned = np.array([[1.0, 1.00001, 0.0]], np.float32)
    assert checks.compared(both(tie), both(turned), False).changed == 0
    assert checks.compared(both(logits), both(logits[:, ::-1]), False).changed > 30


def test_parity_of_several_classes_looks_at_each():
    logits = np.array([[2.0, -1.0], [0.00001, 3.0]], np.float32)
    turned = np.array([[2.0, 1.0], [-0.00001, 3.0]], np.float32)
    assert checks.compared((logits, logits), (logits, turned), True).changed == 1


def test_batches_of_one_three_and_eight_of_the_images_corners():
    random, seen = np.random.default_rng(0), []
    images = [random.integers(0, 256, (*random.integers(5, 9, 2), 3)).astype(np.uint8) for _ in range(15)]

    def run(batch):
        seen.append(batch)
        return (batch.mean((1, 2)) / 255).astype(np.float32), batch.mean((1, 2)).astype(np.float32)

    found = checks.parity(run, run, images, False)
    assert [len(batch) for batch in seen[::2]] == [1, 3, 8, 1, 2]
    assert found.images == 15
    assert all(batch.dtype == np.uint8 and batch.flags.c_contiguous for batch in seen)
    np.testing.assert_array_equal(seen[2][1], images[2][: seen[2].shape[1], : seen[2].shape[2]])


def test_no_call_gets_more_pixels_than_it_can_bear(monkeypatch):
    monkeypatch.setattr(checks, "PIXELS_AT_ONCE", 1000)
    batch = checks.together([np.zeros((40, 20, 3), np.uint8)] * 8)
    assert batch.shape[0] == 8
    assert 700 < batch.shape[0] * batch.shape[1] * batch.shape[2] <= 1000
    assert checks.together([np.zeros((40, 20, 3), np.uint8)]).shape == (1, 40, 20, 3)


def test_no_more_images_are_kept_than_there_is_room_for(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(model(contract()))
    paths = [write_image(tmp_path / f"{i}.png", size=(10, 10)) for i in range(6)]
    monkeypatch.setattr(checks, "BUDGET", 900)  # three of them
    kept, images, positions = checks.readable(Predictor.load(path), paths, skip_bad=False)
    assert (kept, positions) == (paths, list(range(6)))
    assert len(images) == 3


def test_time_is_taken_in_turn():
    order = []
    runs = {name: lambda batch, name=name: order.append((name, len(batch))) for name in ("one", "other")}
    found = checks.milliseconds(runs, [np.zeros((4, 4, 3), np.uint8)] * 3, 8)
    assert set(found) == {"one", "other"}
    assert order[:6] == [("one", 8), ("other", 8)] * 3
    assert len(order) <= 2 * (10 * checks.ROUNDS + 1)


def test_unreadable_images_end_it_or_are_left_out(tmp_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("checks") / "model.onnx"
    path.write_bytes(model(contract()))
    predictor = Predictor.load(path, threads=1)
    paths = [write_image(tmp_path / f"{i}.png") for i in range(3)]
    paths[1].write_bytes(b"")
    with pytest.raises(ImageError, match=r"1\.png: is empty"):
        checks.readable(predictor, paths, skip_bad=False)
    kept, images, positions = checks.readable(predictor, paths, skip_bad=True)
    assert (kept, positions, len(images)) == ([paths[0], paths[2]], [0, 2], 2)
    with pytest.raises(ImageError, match=r"1\.png: is empty"):
        checks.outputs(predictor, paths, "model")
    assert checks.outputs(predictor, kept, "model")[1].shape == (2, 3)
