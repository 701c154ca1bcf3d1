"""Robustness: equal to a hand loop, 1 for a net that is always right, and honest about how few images it saw."""

import csv
import io
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from config.schema import Params
from images.folder import Split
from images.read import read_image
from images.view import View
from model.data_loader import Loader, fetch_dataloader
from model.net import build_net
from reports.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from reports.intervals import wilson
from reports.robustness import (
    Condition,
    Point,
    Robustness,
    conditions,
    main_metric,
    robustness,
    robustness_csv,
    robustness_figure,
    sample,
    summary,
)
from training.evaluation import predict

FEW = (Condition("gaussian_noise", 2.5), Condition("fog", 3), Condition("jpeg_compression", 5))


def opened(data: Path, **values: Any) -> tuple[Params, Loader]:
    params = Params.model_validate(
        {"arch": "conv", "pretrain": 0, "im_sz": 16, "bs_test": 5, "num_workers": 1, **values}
    )
    return params, fetch_dataloader(("valid",), data, params)["valid"]


def net_of(params: Params) -> nn.Module:
    torch.manual_seed(0)
    return build_net(params, 3).net.eval()


class Oracle(nn.Module):
    """Is always right: it knows in which order the images come, and how many it is shown at a time."""

    def __init__(self, labels: np.ndarray, batch_size: int, rounds: int) -> None:
        super().__init__()
        parts = [labels[start : start + batch_size] for start in range(0, len(labels), batch_size)]
        self.answers = [part for part in parts for _ in range(rounds)]

    def forward(self, images: Tensor) -> Tensor:
        labels = torch.from_numpy(self.answers.pop(0))
        assert len(labels) == len(images)
        if labels.ndim == 2:
            return labels * 10 - 5
        return nn.functional.one_hot(labels, 3).float()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_net_that_is_always_right(channels: int, tiny_data: Path) -> None:
    params, loader = opened(tiny_data, channels=channels)
    every = conditions(channels)
    assert {at.kind for at in every} == {kind for kind, row in CORRUPTIONS.items() if channels == 3 or not row.colour}
    oracle = Oracle(loader.split.targets, 5, 1 + len(every))
    result = robustness(oracle, loader, tiny_data, params)
    assert not oracle.answers
    assert not oracle.training
    assert result.images == 12
    assert (result.clean.value, result.corrupted, result.relative) == (1, 1, 1)
    assert {point.interval for point in result.points.values()} == {wilson(12, 12)}
    assert set(summary(result)["area"].values()) == {1}


@pytest.mark.parametrize("values", [{}, {"channels": 1}, {"resize": "letterbox"}, {"resize": "squash"}], ids=str)
def test_equals_a_hand_loop(values: dict[str, Any], tiny_data: Path) -> None:
    params, loader = opened(tiny_data, **values)
    net = net_of(params)
    result = robustness(net, loader, tiny_data, params, under=FEW)
    view, before = View.of(params, training=False), View.of(params, training=True)
    for condition, point in result.points.items():
        right = 0
        for path, label in zip(loader.split.paths, loader.split.targets, strict=True):
            image = before.apply(read_image(tiny_data / path, params.channels))
            pixels = view.apply(corrupt(image, *condition, params.seed, path)) / 255
            normal = ((pixels - np.array(loader.mean)) / np.array(loader.std)).transpose(2, 0, 1)
            with torch.no_grad():
                right += int(net(torch.from_numpy(normal[None]).float()).argmax() == label)
        assert point.value == pytest.approx(right / 12)
        assert point.interval == wilson(right, 12)


def test_clean_is_what_evaluation_measures(tiny_data: Path) -> None:
    params, loader = opened(tiny_data, crop_fraction=0.8)
    net = net_of(params)
    outputs = predict(net, loader)
    result = robustness(net, loader, tiny_data, params, under=FEW)
    assert result.clean.value == pytest.approx(float((outputs.logits.argmax(1) == outputs.labels).mean()))


def test_batches_and_threads_change_nothing(tiny_data: Path) -> None:
    results = []
    for values in ({"bs_test": 5, "num_workers": 1}, {"bs_test": 12, "num_workers": 3}):
        params, loader = opened(tiny_data, **values)
        results.append(robustness(net_of(params), loader, tiny_data, params, images=7, under=FEW))
    assert results[0] == results[1]


def test_several_classes_per_image_by_the_main_metric(tiny_multi_label: Path) -> None:
    values = {"loss": "bce", "metrics": ["accuracy", "f1"], "best_metric": "f1"}
    params, loader = opened(tiny_multi_label, **values)
    assert main_metric(params, multi_label=True) == "f1"
    assert main_metric(params, multi_label=False) == "accuracy"
    assert main_metric(params.model_copy(update={"best_metric": "loss"}), multi_label=True) == "accuracy"
    oracle = Oracle(loader.split.targets, 5, 1 + len(FEW))
    result = robustness(oracle, loader, tiny_multi_label, params, under=FEW)
    assert result.metric == "f1"
    assert result.clean == Point(1.0, result.clean.interval)
    assert result.clean.interval.high == 1
    result = robustness(net_of(params), loader, tiny_multi_label, params, images=5, under=FEW)
    assert result.images == 5
    assert all(0 <= point.value <= 1 for point in result.points.values())


# --- which images -----------------------------------------------------------------------------------------------------


def test_each_class_has_its_share_of_the_sample() -> None:
    targets = np.repeat([0, 1, 2], [60, 30, 10])
    split = Split("test", tuple(map(str, range(100))), targets)
    chosen = sample(split, 50, seed=0)
    assert Counter(targets[chosen].tolist()) == {0: 30, 1: 15, 2: 5}
    assert np.array_equal(chosen, np.unique(chosen))
    assert np.array_equal(chosen, sample(split, 50, seed=0))
    assert not np.array_equal(chosen, sample(split, 50, seed=1))
    assert np.array_equal(sample(split, 100, seed=0), np.arange(100))
    assert np.array_equal(sample(split, 500, seed=0), np.arange(100))


def test_each_combination_of_classes_has_its_share() -> None:
    targets = np.repeat(np.array([[0, 0], [0, 1], [1, 1]], np.float32), [20, 20, 40], axis=0)
    split = Split("test", tuple(map(str, range(80))), targets)
    assert targets[sample(split, 20, seed=0)].sum(axis=0).tolist() == [10, 15]


# --- what is written --------------------------------------------------------------------------------------------------


def made_up(value: Any = lambda kind, severity: 1 - severity / 10) -> Robustness:
    points = {at: Point(value(*at), wilson(round(20 * value(*at)), 20)) for at in conditions(3)}
    return Robustness("accuracy", 20, 28, Point(1.0, wilson(20, 20)), points)


def test_areas_and_means() -> None:
    result = made_up()
    assert result.area("fog") == pytest.approx(0.75)  # a straight line from 1 to 0.5
    assert result.area("gaussian_noise") == pytest.approx(0.75)  # with points between
    assert result.corrupted == pytest.approx(0.7)  # the mean of 0.9 … 0.5
    assert result.relative == pytest.approx(0.7)
    assert list(result.curve("fog")) == [0, *SEVERITIES]
    only_saturation = made_up(lambda kind, severity: 0.0 if kind == "saturation" else 1.0)
    assert only_saturation.corrupted == 1
    nothing = Robustness("accuracy", 20, 28, Point(0.0, wilson(0, 20)), only_saturation.points)
    assert math.isnan(nothing.relative)


def test_the_table_has_a_row_for_each_condition() -> None:
    rows = list(csv.DictReader(io.StringIO(robustness_csv(made_up()).decode())))
    assert [rows[0]["corruption"], rows[0]["accuracy"], rows[0]["images"]] == ["clean", "1.0", "20"]
    assert len(rows) == 1 + len(conditions(3))
    noise = next(row for row in rows if row["corruption"] == "gaussian_noise@2.5")
    assert (noise["level at 224 px"], noise["level at 28 px"]) == ("0.15", "0.043076")
    assert (noise["parameter"], noise["accuracy"]) == ("standard deviation", "0.75")
    assert float(noise["low"]) < 0.75 < float(noise["high"])


def test_the_figure_is_a_picture_also_of_few_kinds_and_undefined_values() -> None:
    result = made_up()
    few = {at: Point(math.nan, result.clean.interval) for at in result.points if at.kind in ("fog", "snow", "frost")}
    for shown in (result, Robustness("auroc", 3, 28, result.clean, few)):
        with Image.open(io.BytesIO(robustness_figure(shown, "a $ <b>"))) as picture:
            picture.load()
            assert picture.width > 1000
