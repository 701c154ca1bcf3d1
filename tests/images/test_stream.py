import errno
import fcntl
import multiprocessing
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from images.cache import open_store
from images.folder import Split, check_headers, fingerprint, scan
from images.read import read_image
from images.stream import Source
from images.view import View
from tests.images.test_cache import all_pixels, make_params, open_train, spoil
from utils import TrainingFault, UserError

PARTS = [np.array([3, 1, 7]), np.array([0, 0]), np.array([20, 23, 22, 21]), np.array([9]), np.arange(24)]


@pytest.fixture
def data(tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data")
    return tmp_path / "data"


def stream(root, workers, **more):
    return open_train(root, cache="none", num_workers=workers, **more)


def workers_of(store):
    return store._loader._iterator._workers


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_any_number_of_workers_gives_the_same(tiny_data, workers):
    expected = [open_train(tiny_data, cache="memory").gather(part) for part in PARTS]
    store = stream(tiny_data, workers)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    for _ in range(2):
        batches = list(store.batches(PARTS))
        assert len(batches) == len(PARTS)
        for (canvas, sizes), (expected_canvas, expected_sizes) in zip(batches, expected, strict=True):
            assert torch.equal(canvas, expected_canvas)
            assert torch.equal(sizes, expected_sizes)
    assert torch.equal(torch.get_rng_state(), state)
    if workers:
        assert len(workers_of(store)) == workers


@pytest.mark.parametrize("resize", ["crop", "letterbox", "squash"])
@pytest.mark.parametrize(
    ("size", "how"),
    [((1203, 797), {}), ((801, 1200), {"exif": 6}), ((3000, 410), {"progressive": True}), ((401, 399), {"mode": "L"}),
     ((640, 480), {"mode": "CMYK"})],
)  # fmt: skip
def test_large_photos_are_decoded_smaller_for_training_alone(tmp_path, monkeypatch, resize, size, how):
    rough = np.random.default_rng(0).integers(50, 200, (6, 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(rough).resize(size, Image.Resampling.BILINEAR).convert(how.get("mode", "RGB"))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = how.get("exif", 1)
    smooth.save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif, progressive=how.get("progressive", False))
    whole = read_image(tmp_path / "a.jpg")
    heights = []

    def noted(*given):
        pixels = read_image(*given)
        heights.append(len(pixels))
        return pixels

    monkeypatch.setattr("images.stream.read_image", noted)
    for training in (True, False):
        view = View(im_sz=40, resize=resize, crop_fraction=0.875, channels=3, background=(0, 0, 0), training=training)
        split = Split("train", ("a.jpg",), np.zeros(1, np.int64))
        source = Source(tmp_path, split, view, 50, np.zeros((1, 2), np.int64))
        source.measure(0)
        image, expected = source.image(0), view.apply(whole)
        assert image.shape == expected.shape
        difference = np.abs(image.astype(int) - expected)
        assert difference.max() <= (8 if training else 0)
        assert difference.mean() <= 1.5
    assert 2 * heights[0] <= heights[1] + 1  # rounded up
    assert heights[1] == len(whole)


def test_workers_stay_from_pass_to_pass(tiny_data):
    store = stream(tiny_data, 2)
    list(store.batches(PARTS))
    before = [worker.pid for worker in workers_of(store)]
    next(store.batches(PARTS))  # a pass that is left in its middle
    batches = list(store.batches(PARTS[::-1]))
    assert [worker.pid for worker in workers_of(store)] == before
    assert torch.equal(batches[-1][0], store.gather(PARTS[0])[0])


def test_a_pass_that_was_overtaken_says_so(tiny_data):
    store = stream(tiny_data, 1)
    first = store.batches(PARTS)
    next(first)
    list(store.batches(PARTS))
    with pytest.raises(RuntimeError, match="another pass over these images has begun"):
        next(first)


def test_an_unreadable_file_is_named_by_the_main_process(data):
    store = stream(data, 2)
    spoil(data / "train/cloud/3.png")
    index = store.split.paths.index("train/cloud/3.png")
    with pytest.raises(UserError, match=r"cloud/3\.png") as raised:
        list(store.batches([np.array([0]), np.array([index])]))
    assert "\n" not in str(raised.value)
    assert len(list(store.batches([np.array([0]), np.array([1])]))) == 2  # by new workers


@pytest.mark.parametrize("kind", ["memory", "disk", "none"])
def test_headers_that_were_checked_are_not_read_again(data, kind, monkeypatch):
    (data / "train/bee/3.png").write_bytes(b"no image")
    before = open_train(data, cache="none", num_workers=0, skip_bad=True)
    checked, bad = check_headers(scan(data), max_megapixels=50, skip_bad=True)
    assert len(bad) == 1
    monkeypatch.setattr("images.stream.read_header", None)
    params = make_params(cache=kind, num_workers=0)
    store = open_store(checked, "train", View.of(params, training=True), params, fingerprint(checked))
    assert store.split.paths == before.split.paths
    assert (store.sizes == before.sizes).all()
    assert len({tuple(size) for size in store.sizes.tolist()}) > 1
    assert all_pixels(store) == all_pixels(before)


def test_a_dead_worker_is_a_training_fault(tiny_data):
    store = stream(tiny_data, 2)
    batches = store.batches([np.arange(24)] * 50)
    next(batches)
    worker = workers_of(store)[0]
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    for _ in range(100):  # nothing is raised here, wherever this process may be: a checkpoint could be half written
        time.sleep(0.001)
    with pytest.raises(TrainingFault, match=r"a loader worker died \(SIGKILL.*memory or /dev/shm.*num_workers"):
        list(batches)
    assert len(list(store.batches(PARTS))) == len(PARTS)  # by new workers


def test_a_worker_whose_connection_breaks_before_it_is_dead(tiny_data):
    store = stream(tiny_data, 2)
    list(store.batches(PARTS))
    worker = workers_of(store)[1]

    def broken():
        threading.Timer(0.3, os.kill, (worker.pid, signal.SIGKILL)).start()
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(TrainingFault, match=r"a loader worker died \(SIGKILL"):
        store._watched(broken)
    assert len(list(store.batches(PARTS))) == len(PARTS)  # by new workers


@pytest.mark.slow  # torch looks after its workers every 5 seconds
def test_a_worker_that_died_between_passes_is_a_training_fault(tiny_data):
    store = stream(tiny_data, 2)
    list(store.batches(PARTS))
    os.kill(workers_of(store)[1].pid, signal.SIGKILL)
    with pytest.raises(TrainingFault, match=r"a loader worker died \(SIGKILL"):
        list(store.batches(PARTS))


def test_workers_leave_signals_to_the_parent(tiny_data):
    received = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in numbers]
    try:
        store = stream(tiny_data, 2)
        batches = store.batches(PARTS * 10)
        next(batches)
        for worker in workers_of(store):
            os.kill(worker.pid, signal.SIGINT)
            os.kill(worker.pid, signal.SIGUSR1)
        assert len(list(batches)) == 10 * len(PARTS) - 1
        assert all(worker.is_alive() for worker in workers_of(store))
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="other workers inherit no lock")
def test_workers_let_go_of_a_lock(tiny_data, tmp_path):
    path = tmp_path / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    store = stream(tiny_data, 2, worker_init=lambda: os.close(descriptor))
    list(store.batches(PARTS))
    os.close(descriptor)  # as when this process dies
    with path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert all(worker.is_alive() for worker in workers_of(store))


def test_spawned_workers_do_the_same(tiny_data):
    store = stream(tiny_data, 1)
    store._loader.multiprocessing_context = "spawn"
    expected = all_pixels(store)
    canvas, sizes = next(store.batches([np.arange(24)]))
    assert canvas.numpy().tobytes() + sizes.numpy().tobytes() == expected


def test_no_room_for_workers_is_told(tiny_data, monkeypatch):
    store = stream(tiny_data, 1)

    def fail(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", fail)
    with pytest.raises(
        TrainingFault, match=r"1 loader workers cannot be started .*Cannot allocate memory.*lower num_workers"
    ):
        next(store.batches(PARTS))
