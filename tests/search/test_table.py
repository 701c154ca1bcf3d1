"""results.md and results.csv: what they say, and that they say it of any set of folders."""

import csv
import hashlib
import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import include
import search_hyperparams
from config.load import load_params
from config.parts import Search
from config.schema import Params
from search.table import COLUMNS, write_results
from search.words import duration, escaped, show
from tests.search.folders import experiment, grid, write


def results(parent):
    text = write_results(parent).read_text(encoding="utf-8")
    with (parent / "results.csv").open(newline="", encoding="utf-8") as file:
        return text, list(csv.DictReader(file))


def accuracies(folder):
    return [row["valid"]["accuracy"] for row in json.loads((folder / "history.json").read_text())["epochs"]]


def evaluated(folder, accuracy, **changes):
    """As evaluate.py leaves what the best weights gave on the test images."""
    best = int(np.argmax(accuracies(folder))) + 1
    about = {"accuracy": accuracy, "split": "test", "epoch": best, "fingerprint": "f", "trained_on_this_data": True}
    write(folder / "metrics_test_best_weights.json", about | changes)


def test_what_was_measured_on_the_test_images_stands_beside_and_ranks_nothing(tmp_path):
    grid(tmp_path)
    text, rows = results(tmp_path)
    assert "test" not in text.splitlines()[4]
    assert (rows[0]["test_mean"], rows[0]["test_seeds"]) == ("", "")
    for row, accuracies_of in ((rows[0], [0.5, 0.6, 0.7]), (rows[1], [0.9, 0.8])):
        for name, accuracy in zip(row["folder"].split(), accuracies_of, strict=False):
            evaluated(tmp_path / name, accuracy)
    text, after = results(tmp_path)
    assert [row["folder"] for row in after] == [row["folder"] for row in rows]
    assert [float(after[0][key]) for key in ("test_mean", "test_std", "test_seeds")] == pytest.approx([0.6, 0.1, 3])
    assert [float(after[1][key]) for key in ("test_mean", "test_seeds")] == pytest.approx([0.85, 2])
    assert "| accuracy, test" in text
    assert "| 0.6000 ± 0.1000 " in text
    assert "| 0.8500 ± 0.0707 (2 of 3 seeds) " in text
    assert "nothing is ranked by it" in text


def test_several_seeds(tmp_path):
    grid(tmp_path)
    text, rows = results(tmp_path)
    assert [row["rank"] for row in rows] == list("123456")
    assert [float(row["mean"]) for row in rows] == sorted((float(row["mean"]) for row in rows), reverse=True)
    best, other = rows[0], rows[3]
    assert (best["learning_rate"], best["ps"], best["seeds_finished"], best["seeds_tried"]) == (
        "0.001",
        "0.25",
        "3",
        "3",
    )
    scores = [[max(accuracies(tmp_path / name)) for name in row["folder"].split()] for row in (best, other)]
    assert float(best["mean"]) == pytest.approx(np.mean(scores[0]), rel=1e-5)
    assert float(best["std"]) == pytest.approx(np.std(scores[0], ddof=1), rel=1e-5)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(scores[0]), scale=stats.sem(scores[0]))
    assert (float(best["low"]), float(best["high"])) == pytest.approx((low, high), rel=1e-5)
    paired = stats.ttest_rel(scores[1], scores[0])
    ends = paired.confidence_interval(0.95)
    assert (float(other["difference_low"]), float(other["difference_high"])) == pytest.approx(tuple(ends), rel=1e-4)
    assert (other["pairs"], other["paired_over"], other["separable"]) == ("3", "seeds", str(int(paired.pvalue < 0.05)))
    assert float(best["last_epoch_mean"]) == pytest.approx(
        np.mean([accuracies(tmp_path / name)[-1] for name in best["folder"].split()]), rel=1e-5
    )
    assert "not separable" in text
    assert "The best of 6 settings (18 trials)" in text
    assert re.search(r"luck with seeds alone would put the first 0\.00\d\d ahead", text)
    assert "--confirm 6" in text
    assert f"--model_dir {tmp_path}/learning_rate_0.001-ps_0.25" in text
    assert "Cost: 90 epochs, 90 min of training on cpu." in text


def test_one_seed_on_the_same_images(tmp_path):
    grid(tmp_path, seeds=1, images=400)
    text, rows = results(tmp_path)
    assert "n = 1: no setting was repeated" in text
    assert "by how much cannot be said from one seed each" in text
    assert {row["paired_over"] for row in rows[1:]} == {"images"}
    assert {row["pairs"] for row in rows[1:]} == {"400"}
    for row in rows[1:]:
        assert float(row["difference"]) == pytest.approx(float(row["mean"]) - float(rows[0]["mean"]), abs=1e-6)
        assert float(row["difference_low"]) < float(row["difference"]) < float(row["difference_high"])
    assert [row["separable"] for row in rows[1:]] == ["0", "0", "0", "1", "1"]


@pytest.mark.parametrize("harm", ["cut", "other images", "missing", "pickle"])
def test_images_that_cannot_be_paired(tmp_path, harm):
    grid(tmp_path, seeds=1, images=50)
    path = tmp_path / "learning_rate_0.01-ps_0.25/predictions_valid.npz"
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif harm == "missing":
        path.unlink()
    else:
        with np.load(path) as stored:
            arrays = dict(stored)
        arrays["paths"] = np.array([f"{p}x" for p in arrays["paths"]], dtype=object if harm == "pickle" else None)
        np.savez(path, **arrays)
    text, rows = results(tmp_path)
    row = next(row for row in rows if row["folder"] == "learning_rate_0.01-ps_0.25")
    assert (row["pairs"], row["paired_over"]) == ("", "")
    assert float(row["difference"]) < 0
    assert text.count("not compared") == 1


def test_another_metric_on_the_same_images(tmp_path):
    grid(tmp_path, seeds=1, images=90)
    for path in tmp_path.glob("*/history.json"):
        path.write_text(path.read_text().replace('"accuracy"', '"f1"'))
        params = json.loads((path.parent / "params_resolved.json").read_text())
        write(path.parent / "params_resolved.json", params | {"best_metric": "f1"})
    text, rows = results(tmp_path)
    assert "ranked by f1" in text
    assert {row["pairs"] for row in rows[1:]} == {"90"}


def test_the_metric_a_search_asked_for(tmp_path):
    grid(tmp_path)
    write(tmp_path / "params.json", {"arch": "conv", "search": {"metric": "loss"}})
    text, rows = results(tmp_path)
    assert "ranked by loss" in text
    assert "Best epoch: the one best at accuracy on these same images" in text
    assert [float(row["mean"]) for row in rows] == sorted(float(row["mean"]) for row in rows)
    assert all(float(row["gap"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("written", "settings"),
    [
        ({}, {}),
        ({}, {"method": "random", "trials": 6, "metric": "loss"}),
        ({"method": "random", "trials": 40}, {"method": "random", "trials": 6}),
        ({"method": "random", "pruner": "asha", "metric": "loss"}, {}),
        ({}, {"pruner": {"name": "asha", "grace": 2}, "hours": 0.5, "weights": "my experiments/a's"}),
    ],
)
def test_the_next_command_asks_for_the_same_search(tmp_path, written, settings):
    """Whatever was given on the command line, or left out of it, when the last trial was made."""
    grid(tmp_path, seeds=1)
    write(tmp_path / "params.json", {"arch": "conv", "search": written})
    for number, name in enumerate(("0.0001-ps_0.5", "0.001-ps_0.5"), 1):
        path = tmp_path / f"learning_rate_{name}/search.json"
        added = {"trial": number, "settings": settings if number == 2 else {"method": "sobol", "metric": "accuracy"}}
        write(path, json.loads(path.read_text()) | added)
    text = results(tmp_path)[0]
    assert f"ranked by {settings.get('metric', 'accuracy')}" in text
    _, script, *argv = shlex.split(next(line for line in text.splitlines() if "--confirm 6" in line))
    assert script == "search_hyperparams.py"
    given = vars(search_hyperparams.parse(argv))
    overrides = [f"{key}={value}" for key, value in given.items() if key.startswith("search.") and value is not None]
    assert load_params(tmp_path / "params.json", overrides).search == Search.model_validate(settings)


def test_settings_that_no_search_writes_give_way_to_those_of_params(tmp_path):
    grid(tmp_path, seeds=1)
    write(tmp_path / "params.json", {"arch": "conv", "search": {"metric": "loss"}})
    for path in tmp_path.glob("*/search.json"):
        write(path, json.loads(path.read_text()) | {"settings": ["metric"]})
    assert "ranked by loss" in results(tmp_path)[0]


def test_runs_that_did_not_finish_are_rows(tmp_path):
    grid(tmp_path, seeds=2)
    message = f"{tmp_path}/learning_rate_1-ps_0.5: the loss | of *epoch* 2 is <not> finite"
    bad = {"learning_rate": 1, "ps": 0.5}
    experiment(tmp_path / "learning_rate_1-ps_0.5", bad, 0.9, state="failed", reason="diverged", message=message)
    experiment(tmp_path / "learning_rate_1-ps_0.5-seed_1", bad, 0.99, 1, epochs=2, state="pruned")
    experiment(tmp_path / "learning_rate_1-ps_0.5-seed_2", bad, 0.9, 2, state="queued")
    experiment(tmp_path / "learning_rate_1-ps_0.5-seed_3", bad, 0.9, 3, state="running")
    text, rows = results(tmp_path)
    assert [row["state"] for row in rows[6:]] == ["failed", "pruned", "queued", "lost"]
    assert all(row["rank"] == "" for row in rows[6:])
    assert rows[6]["reason"] == "diverged: the loss | of *epoch* 2 is <not> finite"
    assert r"diverged: the loss \| of \*epoch\* 2 is \<not\> finite" in text
    assert rows[7]["epochs"] == "2"
    assert "16 runs (12 finished, 1 failed, 1 pruned, 1 queued, 1 lost)" in text
    assert "in runs that are not ranked" in text


def test_what_was_ended_early_was_in_the_running(tmp_path):
    grid(tmp_path, seeds=2)
    for i in range(3):
        experiment(tmp_path / f"{i}", {"learning_rate": 1 + i, "ps": 0.5}, 0.5, epochs=2, state="pruned")
    assert "The best of 9 settings (12 trials, 3 ended early)" in results(tmp_path)[0]
    assert "were all 9 equally good" in results(tmp_path)[0]


def test_no_column_has_the_name_of_a_parameter(tmp_path):
    assert not set(COLUMNS) & set(Params.model_fields)
    for loss in ("cross_entropy", "label_smoothing"):
        experiment(tmp_path / loss, {"loss": loss})
    text, rows = results(tmp_path)
    assert {row["loss"] for row in rows} == {"cross_entropy", "label_smoothing"}
    assert all(0 < float(row["valid_loss"]) < 1 for row in rows)
    header = [name.strip() for name in next(line for line in text.splitlines() if line.startswith("| rank")).split("|")]
    assert len(set(header[1:-1])) == len(header[1:-1])


def test_different_data_is_never_ranked_together(tmp_path):
    grid(tmp_path / "a", seeds=1)
    grid(tmp_path / "b", seeds=1, fingerprint="ff" * 32)
    text, rows = results(tmp_path)
    assert text.count("| rank") == 2
    assert text.count("## Data ") == 2
    assert "not compared" in text
    assert [row["rank"] for row in rows] == list("123456") * 2
    assert {row["data"] for row in rows} == {"78e6c5107" + "8e6", "f" * 12}


def test_nothing_has_finished(tmp_path):
    experiment(tmp_path / "a", state="queued")
    text, rows = results(tmp_path)
    assert "No run has finished yet." in text
    assert rows[0]["state"] == "queued"


def test_a_single_run(tmp_path):
    experiment(tmp_path, searched=False)
    text, rows = results(tmp_path)
    assert rows[0]["rank"] == "1"
    assert "confirm" not in text
    assert "evaluate.py" in text


def test_long_tables(tmp_path):
    for i in range(60):
        experiment(tmp_path / f"wd_{i}", {"wd": i}, i / 100)
        experiment(tmp_path / f"ps_{i}", {"wd": i + 100}, state="failed", epochs=0)
    text, rows = results(tmp_path)
    assert len(rows) == 120
    assert text.count("\n| ") == 2 + 50 + 50
    assert "The first 50 of 60 settings; results.csv has all." in text
    assert "The first 50 of 60; results.csv has all." in text


def test_the_same_folders_give_the_same_bytes(tmp_path):
    grid(tmp_path, seeds=1, images=40)
    write_results(tmp_path)
    before = [(tmp_path / name).read_bytes() for name in ("results.md", "results.csv")]
    write_results(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in ("results.md", "results.csv")] == before


def test_names_that_are_not_harmless(tmp_path):
    folder = tmp_path / "a|b`c\n# d"
    experiment(folder / "=cmd", {"arch": "x|y"}, searched=False)
    experiment(folder / "$(touch x)", {"arch": "<b>"}, 0.5, searched=False)
    text, rows = results(folder)
    assert not [line for line in text.splitlines() if line.startswith("# d")]
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert rows[0]["folder"] == "'=cmd"
    assert r"\<b\>" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0001, "0.0001"), (1e-7, "0.0000001"), ([1e-5, 0.1], "[0.00001, 0.1]"), (None, "-"), (True, "True"), ("a", "a"),
     ({"name": "rotation", "degrees": 5}, "{name: rotation, degrees: 5}"), (float("nan"), "nan")],
)  # fmt: skip
def test_values_as_people_write_them(value, text):
    assert show(value) == text


def test_words():
    assert escaped("learning_rate") == "learning_rate"
    assert escaped("_a_ [b](c)") == r"\_a\_ \[b\](c)"
    assert [duration(seconds) for seconds in (3.21, 240, 7200)] == ["3.21 s", "4 min", "2 h"]


MEASURED = """
import json, pathlib, resource, sys
def seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
from search.table import write_results
from utils import peak_memory_mb
start = seconds()
write_results(sys.argv[1])
megabytes = peak_memory_mb()
written = seconds()
for path in pathlib.Path(sys.argv[1]).rglob("*.json"):
    json.loads(path.read_text())
print(written - start, seconds() - written, megabytes)
sys.exit("torch" in sys.modules)
"""


@pytest.mark.slow
def test_five_thousand_folders(tmp_path):
    """In proportion to parsing their files, on a machine of any speed or load; measured: 2.6 times, 2.9 s, 117 MB."""
    for i in range(5000):
        values = {"learning_rate": (i + 1) / 1e5, "wd": i % 7 / 100}
        experiment(tmp_path / f"{i // 500}" / f"run_{i}", values, 0.5 + i % 400 / 1000, epochs=10, searched=i % 2 == 0)
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    done = subprocess.run(command, cwd=include.ROOT, capture_output=True, text=True, check=True)
    seconds, parsing, megabytes = map(float, done.stdout.split())
    assert (tmp_path / "results.csv").read_text().count("\n") == 5001
    assert seconds < 5 * parsing
    assert megabytes < 300


@pytest.mark.parametrize("changes", [{"epoch": 1}, {"trained_on_this_data": False}, {"fingerprint": "other"}], ids=str)
def test_what_other_weights_or_images_gave_is_not_shown_as_theirs(tmp_path, changes):
    for seed in range(3):
        folder = experiment(tmp_path / str(seed), {}, seed=seed, searched=False)
        evaluated(folder, 0.5 + seed / 10, **(changes if seed == 2 else {}))
    _, [row] = results(tmp_path)
    assert (float(row["test_mean"]), row["test_seeds"]) == (pytest.approx(0.55), "2")


def test_what_learnt_a_few_images_by_heart_is_compared_with_nothing(tmp_path):
    experiment(tmp_path / "honest", {}, 0.8, searched=False)
    experiment(tmp_path / "debug", {"overfit": 20}, 1.2, searched=False)
    text, rows = results(tmp_path)
    assert {row["folder"]: row["data"] for row in rows} == {"honest": "78e6c51078e6", "debug": "overfit20-78"}
    assert "each has a table of its own" in text


def test_two_nets_of_ones_own_are_two_settings(tmp_path):
    for name, source in (("a", "one"), ("b", "other"), ("c", "one")):
        folder = experiment(tmp_path / name, {"arch": "net.py"}, seed=3 if name == "c" else 0, searched=False)
        (folder / "net.py").write_text("edited since")
        (folder / "code").mkdir()
        (folder / "code/net.py").write_text(source)
    _, rows = results(tmp_path)
    assert {row["folder"]: row["net.py"] for row in rows} == {
        "a c": hashlib.sha256(b"one").hexdigest()[:8],
        "b": hashlib.sha256(b"other").hexdigest()[:8],
    }


def test_seeds_that_were_searched_are_not_to_be_confirmed(tmp_path):
    for seed in range(2):
        experiment(tmp_path / f"seed_{seed}", {"seed": seed}, seed=seed)
    assert "--confirm" not in results(tmp_path)[0]


def test_finished_without_the_metric_is_not_unfinished(tmp_path):
    experiment(tmp_path / "a", fingerprint="a" * 64, searched=False)
    folder = experiment(tmp_path / "b", fingerprint="b" * 64, searched=False)
    rows = json.loads((folder / "history.json").read_text())["epochs"]
    for row in rows:
        row["valid"]["f1"] = row["train"]["f1"] = 0.5
    write(folder / "history.json", {"epochs": rows, "steps": [], "stop": None})
    text = write_results(tmp_path, "f1").read_text()
    assert "No run measured f1." in text
    assert "No run has finished yet." not in text
