"""The comparisons of nets that come with the project: what they train, and that a table can be made of one."""

import csv
import json
from unittest import mock

import pytest

import evaluate
import include
import search_hyperparams
import synthesize_results
from config.load import load_params
from search.plan import make_plan
from tests.search.searches import search_folder
from training.catalogues import catalogues

PARENTS = sorted(path.parent for path in (include.ROOT / "experiments" / "compare").glob("*/params.json"))
SETTINGS = {"fashion_mnist": 4, "cifar10": 5, "flipkart_scratch": 3, "flipkart_pretrained": 3}


def test_all_are_known():
    assert {parent.name for parent in PARENTS} == SETTINGS.keys()


@pytest.mark.parametrize("parent", PARENTS, ids=lambda parent: parent.name)
def test_each_trains_its_settings_with_all_seeds(parent, tmp_path):
    written = json.loads((parent / "params.json").read_text())
    [(names, rows)] = written["hyper_search"].items()
    with mock.patch("search.plan.missing", return_value=[]):  # the weights of flipkart_pretrained
        plan = make_plan(parent)
    seeds = written["search"]["seeds"]
    assert len(rows) == SETTINGS[parent.name]
    assert len(plan.trials) == seeds * len(rows)
    for row in rows if "," in names else [[row] for row in rows]:
        trials = [trial for trial in plan.trials if [trial.params[name] for name in names.split(",")] == row]
        assert sorted(trial.params.get("seed", 0) for trial in trials) == list(range(seeds))
        for trial in trials:
            (tmp_path / "params.json").write_text(json.dumps(trial.params))
            params = load_params(tmp_path / "params.json", catalogues=catalogues())
            of_its_own = dict(zip(names.split(","), row, strict=True)).get("num_epochs", written["num_epochs"])
            assert params.num_epochs == of_its_own
    from_scratch = {trial.params["pretrain"] == 0 for trial in plan.trials}
    assert from_scratch == {parent.name != "flipkart_pretrained"}
    text = (include.ROOT / "docs" / "comparisons.md").read_text()
    assert f"--parent_dir {parent.relative_to(include.ROOT)}" in text


@pytest.mark.slow
def test_a_comparison_from_start_to_the_test_images(tiny_data, tmp_path):
    linked = {"arch,im_sz,batch_size": [["shallow", 12, 12], ["conv", 20, 6]]}
    parent = search_folder(tmp_path / "x", linked, batch_size=8, search={"seeds": 2})
    data = ["--data_dir", str(tiny_data)]
    assert search_hyperparams.main([*data, "--parent_dir", str(parent), "--jobs", "1", "--gpus", "cpu"]) == 0
    trials = sorted(path for path in parent.iterdir() if path.name.startswith("arch_"))
    assert len(trials) == 4
    for trial in trials:
        assert evaluate.main([*data, "--model_dir", str(trial)]) == 0
    assert synthesize_results.main(["--parent_dir", str(parent)]) == 0
    with (parent / "results.csv").open(newline="") as file:
        rows = {row["arch"]: row for row in csv.DictReader(file)}
    assert {arch: (row["im_sz"], row["batch_size"]) for arch, row in rows.items()} == {
        "shallow": ("12", "12"),
        "conv": ("20", "6"),
    }
    assert {(row["seeds_finished"], row["test_seeds"]) for row in rows.values()} == {("2", "2")}
    assert all(0 <= float(row["test_mean"]) <= 1 for row in rows.values())
    text = (parent / "results.md").read_text()
    assert "| arch " in text
    assert "| accuracy, test " in text
