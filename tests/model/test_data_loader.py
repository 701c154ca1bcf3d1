import itertools
import shutil

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from config.schema import Params
from images.read import read_image
from images.view import View
from model import data_loader
from model.data_loader import _class_weights, _repeats, fetch_dataloader
from utils import UserError

AUGMENT = ["random_resized_crop", "horizontal_flip", "colour_jitter"]


def make_params(**values):
    return Params(**{"arch": "conv", "im_sz": 16, "batch_size": 5, "num_workers": 0, "augment": AUGMENT} | values)


def fetch(root, *types, statistics=((0.5,) * 3, (0.25,) * 3), **values):
    return fetch_dataloader(types, root, make_params(**values), statistics=statistics)


def contents(batches):
    return [[part.clone() for part in batch[:4]] for batch in batches]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for batch, other in zip(ours, theirs, strict=True):
        for part, other_part in zip(batch, other, strict=True):
            assert part.dtype == other_part.dtype
            assert torch.equal(part, other_part)


@pytest.mark.parametrize(
    "values", [{"cache": "disk"}, *({"cache": "none", "num_workers": workers} for workers in (0, 1, 2, 4))], ids=str
)
def test_batches_are_the_same_from_every_kind_of_store(tiny_data, tmp_path, values):
    shutil.copytree(tiny_data, tmp_path / "data")
    mixed = {"mixup": 0.5, "cutmix": 1.0, "sampler": "weighted"}
    for name, more in itertools.product(("train", "train_evaluation", "valid"), ({}, mixed)):
        expected = fetch(tmp_path / "data", name, cache="memory", statistics=None, **more)[name]
        loader = fetch(tmp_path / "data", name, statistics=None, **more, **values)[name]
        assert (loader.mean, loader.std) == (expected.mean, expected.std)
        for epoch in range(2):
            assert_same(contents(loader.batches(epoch)), contents(expected.batches(epoch)))


@pytest.mark.parametrize("values", [{}, {"mixup": 0.4}, {"cache": "none", "num_workers": 2}], ids=str)
def test_starting_later_skips_and_changes_nothing(tiny_data, values):
    loader = fetch(tiny_data, "train", **values)["train"]
    whole = contents(loader.batches(3))
    for start in range(len(whole) + 1):
        assert_same(contents(loader.batches(3, start)), whole[start:])


def test_skipped_images_are_not_decoded(tiny_data, monkeypatch):
    loader = fetch(tiny_data, "train", cache="none")["train"]
    decoded = []
    real = type(loader.store._source).image
    monkeypatch.setattr(
        type(loader.store._source), "image", lambda self, index: decoded.append(int(index)) or real(self, index)
    )
    (last,) = loader.batches(0, start=4)
    assert decoded == last.indices.tolist()


def test_what_a_batch_is(tiny_data):
    loaders = fetch(tiny_data, "train", "valid", "test", "train_evaluation", bs_test=7)
    assert list(loaders) == ["train", "valid", "test", "train_evaluation"]
    assert [loader.batch_size for loader in loaders.values()] == [5, 7, 7, 7]
    assert [loader.split.name for loader in loaders.values()] == ["train", "valid", "test", "train"]
    for loader in loaders.values():
        assert loader.classes == ("apple", "bee", "cloud")
        assert not loader.multi_label
        for batch in loader:
            count = len(batch.indices)
            assert batch.images.shape == (count, 3, 16, 16)
            assert batch.images.dtype == torch.float32
            assert batch.targets.dtype == batch.labels.dtype == batch.indices.dtype == torch.int64
            assert np.array_equal(batch.labels, loader.split.targets[batch.indices])
            assert torch.equal(batch.targets, batch.labels)


def test_evaluation_visits_each_image_once_in_order(tiny_data):
    loader = fetch(tiny_data, "train_evaluation", bs_test=23)["train_evaluation"]  # a last batch of one is kept
    batches = contents(loader)
    assert [len(batch[3]) for batch in batches] == [23, 1]
    assert len(loader) == 2
    assert torch.cat([batch[3] for batch in batches]).tolist() == list(range(24))
    assert_same(contents(loader.batches(5)), batches)
    view = View.of(make_params(), training=False)
    images = torch.cat([batch[0] for batch in batches])
    for index, path in enumerate(loader.split.paths):
        expected = (view.apply(read_image(tiny_data / path)) / 255 - 0.5) / 0.25
        assert_allclose(images[index].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_training_order_is_keyed_by_seed_and_epoch(tiny_data):
    def order(loader, epoch):
        return torch.cat([batch.indices for batch in loader.batches(epoch)]).tolist()

    loader, again, other = (fetch(tiny_data, "train", seed=seed, batch_size=6)["train"] for seed in (0, 0, 1))
    orders = [order(loader, epoch) for epoch in range(3)]
    assert orders == [order(again, epoch) for epoch in range(3)]
    assert all(sorted(indices) == list(range(24)) for indices in orders)
    assert len({tuple(indices) for indices in [*orders, order(other, 0)]}) == 4


def test_augmentation_does_not_depend_on_the_batch(tiny_data):
    small, large = (fetch(tiny_data, "train", batch_size=size)["train"] for size in (4, 24))
    (batch,) = large.batches(2)
    for other in small.batches(2):
        where = [batch.indices.tolist().index(index) for index in other.indices.tolist()]
        torch.testing.assert_close(other.images, batch.images[where], atol=2e-4, rtol=0)


@pytest.mark.parametrize(("batch_size", "sizes"), [(23, [23]), (1, [1] * 24), (24, [24]), (50, [24]), (22, [22, 2])])
def test_a_last_batch_of_one_is_left_out_of_training(tiny_data, batch_size, sizes):
    loader = fetch(tiny_data, "train", batch_size=batch_size)["train"]
    assert [len(batch.indices) for batch in loader.batches(0)] == sizes
    assert len(loader) == len(sizes)


def test_a_single_image_is_a_batch(tiny_data):
    loader = fetch(tiny_data, "train", overfit=1)["train"]
    assert [len(batch.indices) for batch in loader.batches(0)] == [1]


# --- the weighted sampler --------------------------------------------------------------------------------------------


def test_weighted_draws_classes_equally_often(tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data")
    for name, left in (("apple", 2), ("bee", 5)):
        for path in sorted((tmp_path / "data/train" / name).iterdir())[left:]:
            path.unlink()
    loader = fetch(tmp_path / "data", "train", sampler="weighted")["train"]
    batches = [batch for epoch in range(60) for batch in loader.batches(epoch)]
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    indices = torch.cat([batch.indices for batch in batches]).numpy()
    assert len(labels) == 60 * 15
    assert_allclose(np.bincount(labels) / len(labels), [1 / 3] * 3, atol=0.01)
    assert_allclose(np.bincount(indices) / 60, np.repeat([2.5, 1, 0.625], [2, 5, 8]), atol=0.25)
    for epoch in range(5):
        drawn = np.bincount(torch.cat([batch.indices for batch in loader.batches(epoch)]), minlength=15)
        assert set(drawn[:2]) <= {2, 3}
        assert set(drawn[2:7]) == {1}
        assert set(drawn[7:]) <= {0, 1}


def test_an_image_drawn_twice_is_augmented_differently(tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data")
    for path in sorted((tmp_path / "data/train/apple").iterdir())[1:]:
        path.unlink()
    loader = fetch(tmp_path / "data", "train", sampler="weighted", batch_size=17)["train"]
    (batch,) = loader.batches(0)
    shown = batch.images[batch.indices == 0]
    assert len(shown) >= 5
    assert len({image.numpy().tobytes() for image in shown}) == len(shown)


def test_repeats_count_what_came_before():
    assert _repeats(np.array([3, 1, 3, 3, 0, 1])).tolist() == [0, 0, 1, 2, 0, 1]
    assert _repeats(np.array([], np.int64)).tolist() == []


def test_class_weights():
    assert_allclose(_class_weights(np.array([0, 0, 1, 3]), 4), [0.5, 0.5, 1, 1])
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 0], [1, 0]], np.float32)
    assert_allclose(_class_weights(labels, 2), [1 / 3, 4 / 3, 0.5, 0.5, 1 / 3])


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_gives_soft_targets_until_its_last_epoch(tiny_data, kind):
    values = {kind: 1.0, "num_epochs": 5, "mixing_off_epochs": 2}
    loader = fetch(tiny_data, "train", **values)["train"]
    plain = fetch(tiny_data, "train")["train"]
    for epoch in range(6):
        for batch, other in zip(loader.batches(epoch), plain.batches(epoch), strict=True):
            assert torch.equal(batch.labels, other.labels)
            if epoch >= 3:
                assert torch.equal(batch.targets, other.labels)
                assert torch.equal(batch.images, other.images)
            else:
                assert batch.targets.dtype == torch.float32
                assert batch.targets.shape == (len(batch.labels), 3)
                torch.testing.assert_close(batch.targets.sum(1), torch.ones(len(batch.labels)))
                assert not torch.equal(batch.images, other.images)
    for batch in fetch(tiny_data, "valid", **values)["valid"]:
        assert torch.equal(batch.targets, batch.labels)


def test_multi_label_targets_are_float(tiny_multi_label):
    for values in ({}, {"mixup": 0.3}, {"sampler": "weighted"}):
        loaders = fetch(tiny_multi_label, "train", "valid", **values)
        for loader in loaders.values():
            assert loader.multi_label
            for batch in loader.batches(1):
                assert batch.labels.dtype == batch.targets.dtype == torch.float32
                assert np.array_equal(batch.labels, loader.split.targets[batch.indices])
                assert batch.targets.shape == (len(batch.indices), 3)


def test_grey_images_have_one_channel(tiny_data):
    loaders = fetch(tiny_data, "train", "valid", channels=1, statistics=((0.4,), (0.2,)))
    for loader in loaders.values():
        assert next(iter(loader)).images.shape == (5, 1, 16, 16)
        assert_allclose((*loader.mean, *loader.std), (0.4, 0.2))


# --- statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_of_the_training_images(tiny_data, channels):
    loader = fetch(tiny_data, "valid", statistics=None, channels=channels)["valid"]
    view = View.of(make_params(channels=channels), training=True)
    paths = sorted((tiny_data / "train").rglob("*.*"))
    pixels = np.concatenate([view.apply(read_image(path, channels)).reshape(-1, channels) for path in paths]) / 255
    assert_allclose(loader.mean, pixels.mean(axis=0), atol=1e-6)
    assert_allclose(loader.std, pixels.std(axis=0), atol=1e-6)


def test_statistics_of_params_come_first(tiny_data):
    explicit = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    loader = fetch(tiny_data, "valid", normalize=explicit)["valid"]
    assert (loader.mean, loader.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert fetch(tiny_data, "valid")["valid"].mean == (0.5,) * 3


def test_statistics_of_many_images_look_at_some(tiny_data, monkeypatch):
    monkeypatch.setattr(data_loader, "STATISTICS_IMAGES", 7)
    few = fetch(tiny_data, "valid", statistics=None)["valid"].mean
    monkeypatch.undo()
    assert few != fetch(tiny_data, "valid", statistics=None)["valid"].mean


def test_images_of_one_colour_are_not_divided_by_zero(tmp_path):
    from tests.conftest import write_image

    for split, name, index in itertools.product(("train", "valid"), ("a", "b"), range(2)):
        write_image(tmp_path / split / name / f"{index}.png", (10, 20, 30))
    batch = next(iter(fetch(tmp_path, "train", statistics=None, augment=[])["train"]))
    assert batch.images.abs().max() < 1e-5


# --- overfit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4, 6, 24, 1000])
def test_overfit_trains_on_few_images_as_they_are(tiny_data, count):
    loaders = fetch(tiny_data, "train", "valid", "train_evaluation", overfit=count, mixup=1.0, batch_size=4)
    train, valid = loaders["train"], loaders["valid"]
    assert train.split.paths == valid.split.paths == loaders["train_evaluation"].split.paths
    assert len(train.split.paths) == min(count, 24)
    assert np.ptp(np.bincount(train.split.targets, minlength=3)) <= 1
    shown = {}
    for loader, epoch in ((valid, 0), (train, 0), (train, 1)):
        for batch in loader.batches(epoch):
            for index, image, target in zip(batch.indices.tolist(), batch.images, batch.targets, strict=True):
                assert torch.equal(shown.setdefault(index, image), image)
                assert target == loader.split.targets[index]
    other = fetch(tiny_data, "train", overfit=count, seed=3)["train"].split.paths
    assert (other == train.split.paths) == (count >= 24)


def test_overfit_leaves_the_test_split_alone(tiny_data):
    assert len(fetch(tiny_data, "test", overfit=2)["test"].split.paths) == 12


# --- errors and options ----------------------------------------------------------------------------------------------


def test_an_unknown_type_is_told(tiny_data):
    with pytest.raises(UserError, match='"vaild" is not a known type of loader; did you mean "valid"'):
        fetch(tiny_data, "vaild")


def test_a_folder_scanned_before_is_used(tiny_data):
    from images.folder import scan

    folder = scan(tiny_data, ("train", "valid"))
    loaders = fetch_dataloader(["train"], "no such folder", make_params(), folder=folder)
    assert loaders["train"].split.paths == folder.splits["train"].paths


def test_stores_share_one_budget(tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))
    size = fetch(tmp_path / "data", "train")["train"].store.memory
    loaders = fetch(tmp_path / "data", "train", "valid", cache_gigabytes=(size + 10) / 2**30)
    assert [loader.store.kind for loader in loaders.values()] == ["memory", "disk"]


def test_batches_do_not_touch_the_global_random_state(tiny_data):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for workers in (0, 2):
        loaders = fetch(tiny_data, "train", "valid", cache="none", num_workers=workers, mixup=1.0, statistics=None)
        for loader in loaders.values():
            list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_come_in_inference_mode_too(tiny_data):
    loader = fetch(tiny_data, "train_evaluation", cache="none", num_workers=1)["train_evaluation"]
    with torch.inference_mode():
        first = contents(loader)
    assert_same(contents(loader), first)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("cache", ["memory", "none"])
def test_batches_on_a_gpu(tiny_data, cache):
    params = make_params(cache=cache, num_workers=2, augment=["random_resized_crop", "horizontal_flip"])
    for name in ("train", "valid"):
        ours, theirs = (fetch_dataloader([name], tiny_data, params, device)[name] for device in ("cuda", "cpu"))
        for batch, other in zip(ours.batches(1), theirs.batches(1), strict=True):
            assert batch.images.is_cuda
            assert batch.targets.is_cuda
            assert batch.labels.is_cuda
            assert not batch.indices.is_cuda
            assert torch.equal(batch.indices, other.indices)
            torch.testing.assert_close(batch.images.cpu(), other.images, atol=1e-3, rtol=1e-3)
