"""Images on the device answer as those of their store; where they go, by budgets."""

import numpy as np
import pytest
import torch

from config.schema import Params
from images import resident
from images.cache import open_store
from images.folder import scan
from images.resident import Placement, Resident, nbytes, place
from images.view import View
from model import data_loader
from model.data_loader import fetch_dataloader

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def open_split(root, split="train", **values):
    params = Params(**{"arch": "conv", "im_sz": 16, "num_workers": 0, "cache": "memory"} | values)
    return open_store(scan(root, ("train", "valid")), split, View.of(params, True), params, "")


@pytest.mark.parametrize("values", [{"resize": "crop"}, {"resize": "squash"}, {"channels": 1}], ids=str)
def test_answers_as_the_store(tiny_data, monkeypatch, values):
    monkeypatch.setattr(resident, "AT_ONCE", 7)
    store = open_split(tiny_data, **values)
    on_device = Resident(store, CPU)
    parts = [np.array([5, 0, 23, 5, 11]), np.array([3]), np.arange(24)]
    for (canvas, sizes), (expected, its_sizes) in zip(on_device.batches(parts), store.batches(parts), strict=True):
        assert torch.equal(canvas, expected)
        assert canvas.is_contiguous()
        assert torch.equal(sizes, its_sizes)


def test_batches_are_the_same(tiny_data, monkeypatch):
    values = {"augment": ["random_resized_crop", "colour_jitter"], "batch_size": 5, "mixup": 0.5, "sampler": "weighted"}
    params = Params(arch="conv", im_sz=16, num_workers=0, cache="memory", **values)
    expected = fetch_dataloader(["train", "valid"], tiny_data, params)
    used, free = [], iter([10**9] * 2)
    monkeypatch.setattr(resident, "free_bytes", lambda _: next(free))
    monkeypatch.setattr(resident, "Resident", lambda *given: used.append(given[0]) or Resident(*given))
    monkeypatch.setattr(
        data_loader, "place", lambda stores, *_: {k: Placement(s, CPU, True) for k, s in stores.items()}
    )
    ours = fetch_dataloader(["train", "valid"], tiny_data, params)
    for epoch in range(3):
        for name, loader in ours.items():
            batches = zip(loader.batches(epoch), expected[name].batches(epoch), strict=True)
            assert all(torch.equal(a, b) for ours, theirs in batches for a, b in zip(ours[:4], theirs[:4], strict=True))
    assert used == [loader.store for loader in ours.values()]


def test_the_first_pass_does_not_wait_until_all_are_decoded(tiny_data, monkeypatch):
    monkeypatch.setattr(resident, "free_bytes", lambda _: 10**9)
    store = open_split(tiny_data)
    placement = Placement(store, CPU, wanted=True)
    assert placement.images() is store
    assert isinstance(placement.images(), Resident)  # decodes the others
    assert placement.images() is placement.images()
    assert Placement(store, CPU, wanted=False).images() is store


def test_what_does_not_fit_stays(tiny_data, monkeypatch):
    stores = {split: open_split(tiny_data, split) for split in ("train", "valid")}
    for store in stores.values():
        store.gather(np.arange(len(store)))
    monkeypatch.setattr(resident, "Resident", lambda store, _: f"{store.split.name} on the GPU")
    size = {split: nbytes(store) for split, store in stores.items()}

    def placed(device, budget, free=10**9):
        monkeypatch.setattr(resident, "free_bytes", lambda _: free)
        found = {split: placement.images() for split, placement in place(stores, device, budget / 2**30).items()}
        return [split for split in stores if found[split] == f"{split} on the GPU"]

    assert placed(GPU, size["train"] + size["valid"]) == ["train", "valid"]
    assert placed(GPU, size["train"] + size["valid"] - 1) == ["train"]
    assert placed(GPU, size["train"] - 1) == ["valid"]
    assert placed(GPU, 10**9, free=2 * size["train"] - 1) == ["valid"]
    assert placed(GPU, 0) == placed(CPU, 10**9) == []
    stores["train"] = open_split(tiny_data, cache="none")
    assert placed(GPU, 10**9) == ["valid"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(tiny_data):
    store = open_split(tiny_data)
    canvas, _ = Resident(store, GPU).gather(np.arange(24))
    assert canvas.device.type == "cuda"
    assert torch.equal(canvas.cpu(), store.gather(np.arange(24))[0])
