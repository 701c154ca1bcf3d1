"""The pictures: which are drawn of what, that they hold what they should, and that their bytes are stable."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from search import jobs
from search.collect import collect
from search.cost_plots import draw_against_size, draw_against_time, draw_best_so_far, draw_timeline
from search.figures import Scale, over_seeds, time_unit
from search.plots import PLOTS, draw_heat_map, draw_history, draw_importance, draw_responses, write_plots
from search.words import short
from tests.search.folders import experiment, grid, write
from utils import UserError


def names(paths):
    return {path.name for path in paths}


def test_of_a_grid(tmp_path):
    grid(tmp_path)
    written = write_plots(tmp_path)
    assert names(written) == {
        "history_plots.png", "response_plots.png", "heat_map.png", "best_so_far.png", "timeline.png"
    }  # fmt: skip
    for path in written:
        image = Image.open(io.BytesIO(path.read_bytes()))
        picture = np.asarray(image.convert("L"))
        assert min(picture.shape) > 200
        assert 0.01 < (picture < 250).mean() < 0.9
        assert not image.info.keys() - {"dpi"}


def test_of_many_parameters(tmp_path):
    random = np.random.default_rng(0)
    for i in range(12):
        values = {
            "learning_rate": float(10 ** random.uniform(-5, -1)),
            "ps": i / 20,
            "arch": ["conv", "deep$x^2$"][i % 2],
        }
        folder = experiment(tmp_path / f"t{i}", values, 0.5 + i / 40, epochs=1 + i % 3, minutes=i)
        (folder / "net_summary.txt").write_text(f"{1000 ** (1 + i % 2)} parameters")
    assert names(write_plots(tmp_path)) == set(PLOTS) - {"heat_map.png"}


def test_the_same_folders_give_the_same_bytes(tmp_path):
    grid(tmp_path, seeds=2, epochs=2)
    before = {path: path.read_bytes() for path in write_plots(tmp_path)}
    assert {path: path.read_bytes() for path in write_plots(tmp_path)} == before


def test_what_no_longer_makes_sense_is_removed(tmp_path):
    grid(tmp_path, seeds=1, epochs=2)
    assert (tmp_path / "heat_map.png") in write_plots(tmp_path)
    experiment(tmp_path / "other", {"learning_rate": 0.1, "ps": 0.5, "wd": 0.1})
    write_plots(tmp_path)
    assert not (tmp_path / "heat_map.png").exists()


@pytest.mark.parametrize("state", ["queued", "failed", "running"])
def test_before_anything_has_finished(tmp_path, state):
    experiment(tmp_path / "a", {"ps": 0.1}, state=state, epochs=0)
    experiment(tmp_path / "b", {"ps": 0.2}, state=state, epochs=3)
    expected = set() if state == "queued" else {"history_plots.png", "timeline.png"}
    assert names(write_plots(tmp_path)) == expected


def test_a_single_run(tmp_path):
    experiment(tmp_path / "名前 $x$ _", searched=False, epochs=1)
    assert names(write_plots(tmp_path)) == {"history_plots.png"}


def test_numbers_that_are_missing(tmp_path):
    for i in range(5):
        folder = experiment(tmp_path / f"{i}", {"ps": i / 10, "wd": i / 100, "arch": f"a{i}"}, 0.8, epochs=3)
        history = json.loads((folder / "history.json").read_text())
        for row in history["epochs"][: i + 1]:
            row["train"]["accuracy"] = row["valid"]["accuracy"] = row["valid"]["loss"] = None
        (folder / "history.json").write_text(json.dumps(history))
    assert write_plots(tmp_path)


def test_bands_over_seeds(tmp_path):
    grid(tmp_path, seeds=3, epochs=4)
    [comparison] = collect(tmp_path)
    panel = draw_history(comparison).axes[0]
    best = np.mean([run.valid["accuracy"] for run in comparison.settings[0].runs], axis=0)
    assert any(np.allclose(line.get_ydata(), best) for line in panel.lines)
    assert len(panel.collections) == 6


def test_the_best_so_far(tmp_path):
    for i, quality in enumerate((0.7, 0.9, 0.8)):
        experiment(tmp_path / f"{i}", {"ps": i / 10}, quality, minutes=i)
    [comparison] = collect(tmp_path)
    points, steps = draw_best_so_far(comparison).axes[0].lines
    first, second, third = points.get_ydata()
    assert list(steps.get_ydata()) == [first, second, second, second]
    assert third < second
    assert list(points.get_xdata()) == [5, 10, 15]


def test_the_timeline_goes_from_the_first_start_to_the_end(tmp_path):
    """Not from the last start, after a pause; nor to when a later search took down that a trial had been pruned."""
    experiment(tmp_path / "first", {"ps": 0.1}, minutes=10)
    folder = experiment(tmp_path / "paused", {"ps": 0.2}, minutes=60, state="stopped")
    environment = json.loads((folder / "environment.json").read_text())
    write(folder / "environment.json", environment | {"started": "2026-11-21T00:20:00+00:00"})
    jobs.end_after(folder, 5, "asha")
    jobs.settle(folder)
    [comparison] = collect(tmp_path)
    assert [run.state for run in comparison.runs] == ["finished", "pruned"]
    bars = draw_timeline(comparison).axes[0].patches[:2]
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0, 9), pytest.approx((10, 49))]


@pytest.mark.parametrize(("metric", "front"), [("accuracy", [2, 4]), ("loss", [2, 4])])
def test_the_front_holds_what_nothing_beats_in_both(tmp_path, metric, front):
    for i, (size, quality) in enumerate([(1, 0.5), (2, 0.7), (3, 0.6), (4, 0.9), (5, 0.8)]):
        folder = experiment(tmp_path / f"{i}", {"ps": i / 10}, quality, epochs=size)
        (folder / "net_summary.txt").write_text(f"{size},000,000 parameters")
    [comparison] = collect(tmp_path, metric)
    panel = draw_against_size(comparison).axes[0]
    assert list(panel.lines[1].get_xdata()) == [1, *front]
    assert [text.get_text() for text in panel.texts] == ["rank 5", "rank 3", "rank 1"]
    assert draw_against_time(comparison).axes[0].get_xlabel() == "time of one training, minutes"


def test_what_is_linked_to_the_net_is_not_drawn_as_if_it_were_free(tmp_path):
    linked = [("conv", "a/b.pth", 28, 64), ("deep", "c.pth", 28, 128), ("resnet18", "d.pth", 56, 128)]
    for i, (arch, weights, im_sz, batch) in enumerate(linked):
        values = {"arch": arch, "pretrain": weights, "im_sz": im_sz, "batch_size": batch}
        folder = experiment(tmp_path / arch, values, 0.5 + i / 10)
        (folder / "net_summary.txt").write_text(f"{3 - i},000,000 parameters")
    [comparison] = collect(tmp_path)
    assert [panel.get_xlabel() for panel in draw_responses(comparison).axes] == ["arch"]
    assert [text.get_text() for text in draw_against_size(comparison).axes[0].texts] == ["resnet18", "deep", "conv"]
    experiment(tmp_path / "conv_56", {"arch": "conv", "pretrain": "a/b.pth", "im_sz": 56, "batch_size": 64})
    [comparison] = collect(tmp_path)
    assert [panel.get_xlabel() for panel in draw_responses(comparison).axes] == ["arch", "im_sz"]


def test_what_costs_more_and_is_no_better_is_not_on_the_front(tmp_path):
    for i, size in enumerate((1, 2, 3, 3)):
        folder = experiment(tmp_path / f"{i}", {"ps": i / 10})
        rows = [{"epoch": 1, "train": {"loss": 1}, "valid": {"loss": 1, "accuracy": max(0.5, 0.1 * i + 0.4)},
                 "seconds": 60, "memory_mb": 1}]  # fmt: skip
        write(folder / "history.json", {"epochs": rows})
        (folder / "net_summary.txt").write_text(f"{size},000,000 parameters")
    front = draw_against_size(collect(tmp_path)[0]).axes[0].lines[1]
    assert list(front.get_xdata()) == [1, 3]
    assert list(front.get_ydata()) == pytest.approx([0.5, 0.7])


def test_importance_needs_settings_and_parameters(tmp_path):
    grid(tmp_path, seeds=1)
    assert draw_importance(collect(tmp_path)[0]) is None  # six settings
    for i in range(20):
        rate = 10 ** (-1 - i / 5)
        experiment(tmp_path / f"{i}", {"learning_rate": rate, "ps": i % 4 / 10}, 0.9 - abs(i - 9) / 40)
    panel = draw_importance(collect(tmp_path)[0]).axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["learning_rate", "ps"]
    assert panel.patches[0].get_width() > 0.6
    assert "the best 5 of 26" in panel.get_xlabel()


def test_the_heat_map_lies_right(tmp_path):
    grid(tmp_path, seeds=1)
    [comparison] = collect(tmp_path)
    cells = draw_heat_map(comparison).axes[0].images[0].get_array()
    assert cells.shape == (3, 2)
    assert np.unravel_index(cells.argmax(), cells.shape) == (1, 0)  # learning_rate 0.001, ps 0.25


def test_a_metric_that_was_not_measured(tmp_path):
    grid(tmp_path, seeds=1)
    with pytest.raises(UserError, match='did you mean "accuracy"'):
        write_plots(tmp_path, "acuracy")
    assert write_plots(tmp_path, "loss")


def test_scales():
    rates = Scale([0.1, 0.001, 0.01, 0.01])
    assert rates.log
    assert [rates.share(rank) for rank in range(3)] == pytest.approx([0, 0.5, 1])
    assert not Scale([0.25, 0.5, 0.75]).log
    assert not Scale([0, 0.001, 0.1]).log
    names = Scale(["b", [1, 2], "a", None])
    assert not names.numeric
    assert names.rank("a") + 1 == names.rank("b")
    assert Scale([3]).share(0) == 0
    assert len(Scale([10.0**-i for i in range(30)]).ticks()) == 7


def test_small_things():
    means, spread = over_seeds([np.array([1.0, 2.0, 3.0]), np.array([3.0])])
    assert means.tolist() == [2, 2, 3]
    assert spread.tolist() == [pytest.approx(math.sqrt(2)), 0, 0]
    assert short("abcdefghij", 7) == "abc…hij"
    assert [time_unit(seconds)[1] for seconds in (10, 300, 9000)] == ["seconds", "minutes", "hours"]
