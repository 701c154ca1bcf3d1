import contextlib
import errno
import fcntl
import gc
import json
import multiprocessing
import os
import shutil
import time

import numpy as np
import pytest
import torch

from config.schema import Params
from images import cache, disk_store
from images.cache import View, open_store
from images.folder import fingerprint, scan
from images.read import read_image
from tests.conftest import write_image
from utils import UserError

KINDS = {"memory": "memory", "disk": "disk", "none": "streamed"}
ORDER = np.array([5, 0, 23, 5, 11])


@pytest.fixture
def data(tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))
    return tmp_path / "data"


def make_params(**values):
    return Params(arch="conv", im_sz=16, **values)


def open_train(root, training=True, split="train", memory_taken=0, worker_init=None, **values):
    folder = scan(root, ("train", "valid"))
    params = make_params(**values)
    view = View.of(params, training)
    return open_store(folder, split, view, params, fingerprint(folder), memory_taken, worker_init)


def all_pixels(store):
    canvas, sizes = store.gather(np.arange(len(store)))
    return canvas.numpy().tobytes() + sizes.numpy().tobytes()


def the_folder(root):
    (found,) = [path for path in (root / ".cache").iterdir() if (path / "store.json").is_file()]
    return found


@pytest.mark.parametrize("how", ["crop", "letterbox", "squash"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_answers_the_same(data, how, training, channels):
    settings = {"resize": how, "channels": channels}
    stores = {}
    for name, kind in KINDS.items():
        stores[kind] = open_train(data, training, cache=name, num_workers=0, **settings)
        assert stores[kind].kind == kind
        assert len(stores[kind]) == len(stores[kind].split.paths) == 24
    stores["disk again"] = open_train(data, training, cache="disk", **settings)
    expected = stores["memory"].gather(ORDER)
    view = View.of(make_params(**settings), training)
    for row, index in enumerate(ORDER):
        image = view.apply(read_image(data / stores["memory"].split.paths[index], channels))
        height, width = expected[1][row].tolist()
        assert np.array_equal(expected[0][row, :height, :width].numpy(), image)
        assert not expected[0][row, height:].any()
        assert not expected[0][row, :, width:].any()
    for store in stores.values():
        assert np.array_equal(store.sizes, stores["memory"].sizes)
        for canvas, sizes in (store.gather(ORDER), next(store.batches([ORDER]))):
            assert torch.equal(canvas, expected[0])
            assert torch.equal(sizes, expected[1])
            assert canvas.dtype == torch.uint8
            assert sizes.dtype == torch.int64


def test_targets_and_paths_stay_together(data):
    folder = scan(data, ("train", "valid"))
    for name in KINDS:
        store = open_train(data, cache=name)
        assert store.split.paths == folder.splits["train"].paths
        assert np.array_equal(store.split.targets, folder.splits["train"].targets)


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_auto_takes_memory_then_disk_then_none(data, monkeypatch):
    assert open_train(data).kind == "memory"
    size = open_train(data).memory
    assert open_train(data, memory_taken=4 * 2**30 - size).kind == "memory"
    with monkeypatch.context() as patch:
        patch.setattr(cache, "free_memory", lambda: 2 * size - 2)
        patch.setattr(disk_store.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 2 * size))
        assert open_train(data).kind == "streamed"
    assert open_train(data, memory_taken=4 * 2**30 - size + 1).kind == "disk"
    assert open_train(data).kind == "disk"  # as it is there already


def test_memory_beyond_what_is_free_is_refused(data, monkeypatch):
    monkeypatch.setattr(cache, "free_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"cache: the decoded images of train take .* of memory"):
        open_train(data, cache="memory")


def test_a_folder_that_cannot_be_written_falls_back_to_memory(data, monkeypatch, caplog):
    (data / ".cache").write_text("a file in the way")
    store = open_train(data, cache="disk")
    assert store.kind == "memory"
    assert [r.message for r in caplog.records if "cannot keep decoded images" in r.message]
    assert open_train(data, cache="disk", cache_gigabytes=0).kind == "streamed"


def test_a_full_disk_falls_back_and_leaves_nothing(data, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_store.os, "pwrite", full)
    assert open_train(data, cache="disk").kind == "memory"
    assert [path.name for path in (data / ".cache").iterdir() if path.is_dir()] == []


# --- images that are decoded when they are first needed --------------------------------------------------------------


def test_memory_decodes_each_image_once_and_a_little_ahead(data, monkeypatch):
    decoded, one = [], cache.Source.image
    monkeypatch.setattr(cache.Source, "image", lambda source, index: decoded.append(index) or one(source, index))
    store, expected = open_train(data, cache="memory", num_workers=0), open_train(data, cache="none", num_workers=0)
    assert decoded == []
    monkeypatch.setattr(cache, "CHUNKS_AHEAD", 1)  # of 4 images: one batch of 6, and the next
    batches = store.batches([ORDER, *np.arange(24).reshape(4, 6)])
    first, _ = next(batches)
    assert set(decoded) <= {5, 0, 23, 11, *range(6)}
    rest = [canvas for canvas, _ in batches]
    assert sorted(decoded) == list(range(24))
    assert torch.equal(first, expected.gather(ORDER)[0])
    for canvas, indices in zip(rest, np.arange(24).reshape(4, 6), strict=True):
        assert torch.equal(canvas, expected.gather(indices)[0])
    decoded.clear()
    all_pixels(store)
    assert decoded == []


def test_memory_names_an_unreadable_file_when_it_is_needed_and_ever_after(data):
    spoil(data / "train/cloud/3.png")
    store = open_train(data, cache="memory")
    bad = store.split.paths.index("train/cloud/3.png")
    others = np.setdiff1d(np.arange(24), np.arange(bad - 3, bad + 4))
    assert torch.equal(store.gather(others)[0], open_train(data, cache="none").gather(others)[0])
    for _ in range(2):
        with pytest.raises(UserError, match=r"cloud/3\.png"):
            store.gather(np.array([0, bad]))


# --- the disk store --------------------------------------------------------------------------------------------------


def test_a_disk_store_is_opened_without_decoding(data, monkeypatch):
    before = all_pixels(open_train(data, cache="disk"))
    monkeypatch.setattr("images.stream.read_image", None)
    monkeypatch.setattr("images.stream.read_header", None)
    again = open_train(data, cache="disk")
    assert all_pixels(again) == before


def test_a_changed_file_makes_a_new_store_and_removes_the_old(data):
    before = all_pixels(open_train(data, cache="disk"))
    old = the_folder(data)
    write_image(data / "train/bee/1.png", (1, 2, 3))
    store = open_train(data, cache="disk")
    assert all_pixels(store) == all_pixels(open_train(data, cache="memory")) != before
    assert the_folder(data) != old
    assert not old.exists()


@pytest.mark.parametrize(
    "other", [{"im_sz": 24}, {"resize": "squash"}, {"background": [0, 0, 0]}, {"crop_fraction": 0.5}, {"channels": 1}]
)
def test_another_view_has_a_store_of_its_own(data, other):
    first = open_train(data, cache="disk")
    params = Params(**{"arch": "conv", "im_sz": 16, "cache": "disk"} | other)
    folder = scan(data, ("train", "valid"))
    for training in (True, False):
        open_store(folder, "train", View.of(params, training), params, fingerprint(folder))
    open_train(data, cache="disk", split="valid")
    assert sum((path / "store.json").is_file() for path in (data / ".cache").iterdir()) == 4
    assert all_pixels(first) == all_pixels(open_train(data, cache="memory"))


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << (position % 8)
    path.write_bytes(content)


def test_a_store_that_is_in_use_is_left_to_those_who_use_it(data, monkeypatch):
    first = open_train(data, cache="disk")
    before, old = all_pixels(first), the_folder(data)
    monkeypatch.setattr(disk_store.PIL, "__version__", "another environment")
    second = open_train(data, cache="disk")
    assert old.exists()
    assert all_pixels(first) == all_pixels(second) == before
    del first, second
    gc.collect()
    monkeypatch.setattr(disk_store.PIL, "__version__", "a third")
    open_train(data, cache="disk")
    assert the_folder(data) != old  # it is the only one


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_has_disk_stores_too(data, monkeypatch, number, caplog):
    expected = all_pixels(open_train(data, cache="memory"))

    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk_store.fcntl, "flock", refused)
    for _ in range(2):
        store = open_train(data, cache="disk")
        assert (store.kind, all_pixels(store)) == ("disk", expected)
    assert "has no locks; others may decode these images at the same time" in caplog.text


def test_a_cache_that_may_not_be_entered_is_as_none(data, monkeypatch):
    expected, real = all_pixels(open_train(data, cache="memory")), os.stat

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def stat(path, *args, **kwargs):
        return refuse(path) if "/.cache/train" in str(path) else real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(disk_store, "_alone", refuse)
    store = open_train(data, cache="disk")
    assert (store.kind, all_pixels(store)) == ("memory", expected)


DAMAGES = {
    "a bit of the pixels": lambda folder: flip(folder / "pixels.bin", 5000),
    "a bit of a size": lambda folder: flip(folder / "pixels.bin", 8),
    "the last bit": lambda folder: flip(folder / "pixels.bin", -1),
    "pixels cut off": lambda folder: os.truncate(folder / "pixels.bin", 9000),
    "pixels empty": lambda folder: os.truncate(folder / "pixels.bin", 0),
    "pixels longer": lambda folder: os.truncate(folder / "pixels.bin", 2**20),
    "pixels gone": lambda folder: (folder / "pixels.bin").unlink(),
    "index gone": lambda folder: (folder / "store.json").unlink(),
    "index empty": lambda folder: (folder / "store.json").write_bytes(b""),
    "index cut off": lambda folder: os.truncate(folder / "store.json", 200),
    "index not an object": lambda folder: (folder / "store.json").write_bytes(b"[1]"),
    "index deep": lambda folder: (folder / "store.json").write_bytes(b"[" * 100_000),
    "another digest": lambda folder: rewrite(folder, sha256="0" * 64),
    "other blocks": lambda folder: rewrite(folder, blocks=[]),
    "images left out": lambda folder: rewrite(folder, dropped={"3": "bad"}),
}


def rewrite(folder, **changes):
    index = json.loads((folder / "store.json").read_bytes())
    (folder / "store.json").write_text(json.dumps(index | changes))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_noticed_and_built_again(data, damage, caplog):
    before = all_pixels(open_train(data, cache="disk"))
    DAMAGES[damage](the_folder(data))
    store = open_train(data, cache="disk")
    assert store.kind == "disk"
    assert all_pixels(store) == before
    assert any("damaged" in record.message for record in caplog.records)
    caplog.clear()
    assert all_pixels(open_train(data, cache="disk")) == before
    assert not any("damaged" in record.message for record in caplog.records)


def test_every_bit_counts(data):
    store = open_train(data, cache="disk")
    folder, before = the_folder(data), all_pixels(store)
    seen = 0
    for name in ("pixels.bin", "store.json"):
        whole = (folder / name).read_bytes()
        for position in np.random.default_rng(0).integers(0, len(whole), 60):
            flip(folder / name, int(position))
            assert disk_place(data).load() is None
            (folder / name).write_bytes(whole)
            seen += 1
    assert seen == 120
    assert disk_place(data).load() is not None
    assert all_pixels(store) == before


def disk_place(root):
    folder, params = scan(root, ("train", "valid")), make_params()
    split = folder.splits["train"]
    source = cache.Source(root, split, View.of(params, True), 50.0, np.zeros((len(split.paths), 2), np.int64))
    return disk_store.DiskStore(source, False, fingerprint(folder), 1)


def test_what_a_killed_builder_left_is_swept(data):
    open_train(data, cache="disk")
    folder = the_folder(data)
    slot = folder.name.rsplit("-", 1)[0]
    half = folder.with_name(f"{slot}.building-0123456789ab")
    folder.rename(half)
    (half / "store.json").unlink()
    store = open_train(data, cache="disk")
    assert store.kind == "disk"
    assert not half.exists()


def build_in_process(root, results):
    store = open_train(root, cache="disk", num_workers=1)
    results.put((store.kind, all_pixels(store)))


def test_processes_that_build_at_once_share_one_store(data):
    expected = all_pixels(open_train(data, cache="memory"))
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=build_in_process, args=(data, results)) for _ in range(4)]
    for process in processes:
        process.start()
    answers = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert answers == [("disk", expected)] * 4
    assert sorted(path.suffix for path in (data / ".cache").iterdir() if path.name.startswith("train")) == ["", ".lock"]


def test_processes_without_locks_between_them_spoil_nothing(data, monkeypatch):
    """As on a shared file system that keeps none: each gets the right pixels, and the store left is whole."""
    monkeypatch.setattr(disk_store, "_alone", lambda path: contextlib.nullcontext())
    expected = all_pixels(open_train(data, cache="memory"))
    context, whole = multiprocessing.get_context("fork"), 0
    for _ in range(6):
        shutil.rmtree(data / ".cache", ignore_errors=True)
        results = context.Queue()
        processes = [context.Process(target=build_in_process, args=(data, results)) for _ in range(6)]
        for process in processes:
            process.start()
        assert {results.get(timeout=60)[1] for _ in processes} == {expected}
        for process in processes:
            process.join()
        whole += disk_place(data).load() is not None
        assert all_pixels(open_train(data, cache="disk")) == expected
    assert whole


def test_a_second_builder_waits_for_the_first(data, caplog):
    expected = all_pixels(open_train(data, cache="disk"))
    folder = the_folder(data)
    lock = folder.with_name(folder.name.rsplit("-", 1)[0] + ".lock")
    aside = data / "aside"
    folder.rename(aside)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        process = context.Process(target=build_in_process, args=(data, results))
        process.start()
        time.sleep(0.5)
        assert process.is_alive()
        assert results.empty()
        aside.rename(folder)  # what the first builder does at its end
        built = (folder / "pixels.bin").stat().st_ino
        fcntl.flock(file, fcntl.LOCK_UN)  # the forked process has this file open too
    assert results.get(timeout=60) == ("disk", expected)
    process.join()
    assert (folder / "pixels.bin").stat().st_ino == built


# --- unreadable files ------------------------------------------------------------------------------------------------


def spoil(path):
    """A whole header and half of the pixels."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("kind", KINDS)
def test_an_unreadable_file_is_named(data, kind):
    spoil(data / "train/cloud/3.png")
    with pytest.raises(UserError, match=r"cloud/3\.png"):
        list(open_train(data, cache=kind, num_workers=0).batches([np.arange(24)]))


@pytest.mark.parametrize("kind", KINDS)
def test_skip_bad_leaves_out_and_lists(data, kind, caplog):
    spoil(data / "train/apple/3.png")
    spoil(data / "train/cloud/2.jpg")
    for _ in range(2):  # the second time from the disk store
        caplog.clear()
        store = open_train(data, cache=kind, skip_bad=True, num_workers=2)
        assert [path for path, _ in store.dropped] == ["train/apple/3.png", "train/cloud/2.jpg"]
        assert len(store) == len(store.split.paths) == len(store.split.targets) == len(store.sizes) == 22
        assert "train/apple/3.png" not in store.split.paths
        assert any("train/apple/3.png" in record.getMessage() for record in caplog.records)
        shutil.copytree(data, data.parent / "good", dirs_exist_ok=True)
        for path in ("train/apple/3.png", "train/cloud/2.jpg"):
            (data.parent / "good" / path).unlink()
        assert all_pixels(store) == all_pixels(open_train(data.parent / "good", cache="memory"))


@pytest.mark.parametrize("kind", KINDS)
def test_skip_bad_leaves_no_class_empty(data, kind):
    for path in (data / "train/bee").iterdir():
        spoil(path)
    with pytest.raises(UserError, match="no image of its class can be read"):
        open_train(data, cache=kind, skip_bad=True)
    for path in (data / "valid/bee").iterdir():
        spoil(path)
    assert len(open_train(data, split="valid", cache=kind, skip_bad=True)) == 8


def test_a_header_that_is_not_true_is_noticed(data, monkeypatch):
    real = cache.Source.measure

    def wrong(self, index):
        real(self, index)
        if index == 4:
            self.sizes[index] += 1

    monkeypatch.setattr(cache.Source, "measure", wrong)
    for kind in ("memory", "disk", "none"):
        with pytest.raises(UserError, match="is not what its header says"):
            list(open_train(data, cache=kind, num_workers=0).batches([np.arange(24)]))
