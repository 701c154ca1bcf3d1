"""What every trial starts from."""

import json

import pytest

from search.layout import lay_out
from search.plan import about, confirmation, make_plan
from search.starting_weights import missing, starting_weights
from tests.search.folders import experiment
from tests.search.searches import search_folder
from utils import UserError


def test_a_file_and_an_experiment_are_taken_as_they_are(tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"x")
    assert starting_weights(str(file), "accuracy") == str(file)
    folder = experiment(tmp_path / "run")
    assert starting_weights(str(folder), "accuracy") == str(folder)
    monkeypatch.chdir(tmp_path)
    assert starting_weights("run", "accuracy") == "./run"  # not the name of published weights


def test_of_a_folder_the_best_that_finished_and_still_has_weights(tmp_path):
    experiment(tmp_path / "a" / "good", {"learning_rate": 0.1}, quality=0.8)
    experiment(tmp_path / "a" / "fair", {"learning_rate": 0.2}, quality=0.6)
    experiment(tmp_path / "a" / "pruned", {"learning_rate": 0.3}, quality=0.9, state="pruned")
    dropped = experiment(tmp_path / "a" / "dropped", {"learning_rate": 0.4}, quality=0.95)
    (dropped / "weights_best.safetensors").unlink()
    assert starting_weights(str(tmp_path / "a"), "accuracy") == str(tmp_path / "a" / "good")
    assert starting_weights(str(tmp_path / "a"), "loss") == str(tmp_path / "a" / "good")


def test_one_that_learnt_a_few_images_by_heart_is_not_the_best(tmp_path):
    experiment(tmp_path / "a" / "debug", {"overfit": 20}, quality=1.2)
    with pytest.raises(UserError, match="holds no finished experiment"):
        starting_weights(str(tmp_path / "a"), "accuracy")
    experiment(tmp_path / "a" / "fair", quality=0.6)
    assert starting_weights(str(tmp_path / "a"), "accuracy") == str(tmp_path / "a" / "fair")


def test_what_cannot_be_chosen_from_is_told_in_a_line(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        starting_weights(str(tmp_path / "nowhere"), "accuracy")
    experiment(tmp_path / "a" / "running", state="running")
    with pytest.raises(UserError, match="holds no finished experiment with weights and accuracy"):
        starting_weights(str(tmp_path / "a"), "accuracy")
    experiment(tmp_path / "a" / "one", {"ps": 0.1})
    experiment(tmp_path / "a" / "other", {"ps": 0.2}, fingerprint="0" * 64)
    with pytest.raises(UserError, match="were trained on different data; name one of them"):
        starting_weights(str(tmp_path / "a"), "accuracy")


@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_it_is_chosen_once_and_noted_in_every_trial(tmp_path, method):
    given = tmp_path / "given"
    experiment(given / "good", quality=0.7)
    settings = {"weights": str(given), "method": method, "trials": 2}
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.001], "ps": [0.1, 0.2]}, search=settings)
    plan = make_plan(parent)
    lay_out(plan)
    if method == "grid":
        trial = plan.trials[0]
        assert json.loads((trial.path / "params.json").read_text())["pretrain"] == str(given / "good")
        assert about(trial.path)["weights"] == {"asked": str(given), "taken": str(given / "good")}
        experiment(given / "better", {"ps": 0.3}, quality=0.9)
        again = make_plan(parent)
        assert {t.params["pretrain"] for t in again.trials} == {str(given / "good")}
        assert confirmation(again, trial.combination, 2)[1].params["pretrain"] == str(given / "good")
        lay_out(again)
        fresh = search_folder(tmp_path / "y", {"learning_rate": [0.01]}, search=settings)
        assert make_plan(fresh).trials[0].params["pretrain"] == str(given / "better")
    assert plan.base["pretrain"] == str(given / "good")


def test_not_beside_a_search_over_pretrain(tmp_path):
    parent = search_folder(tmp_path / "x", {"pretrain": [0, 1]}, search={"weights": str(tmp_path)})
    with pytest.raises(UserError, match="hyper_search lists pretrain, and search asks for weights; keep one of them"):
        make_plan(parent)


def test_weights_that_are_not_there_are_told_before_anything_is_made(tmp_path):
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"x")
    asked = [str(there), "gone/a.pth", "b.pt", "IMAGENET1K_V1", 1, 0, "~nobody/a.pt", "x" * 5000 + ".pt", "a\0/b"]
    assert missing(asked[:1]) == missing(asked[3:6]) == []
    assert [line.partition(":")[0] for line in missing(asked)] == ["pretrain"] * 5
    linked = {"arch,pretrain": [["conv", str(there)], ["deep", "gone/a.pth"]]}
    parent = search_folder(tmp_path / "x", linked, pretrain=0, search={"seeds": 2})
    with pytest.raises(UserError, match=r"^[^\n]*params\.json: pretrain: gone/a\.pth: no such file or folder$"):
        make_plan(parent)
    assert [path.name for path in parent.iterdir()] == ["params.json"]
    search_folder(tmp_path / "x", {"arch,pretrain": [["conv", str(there)]]}, pretrain=0)
    lay_out(make_plan(parent))
    there.unlink()  # what has begun may have used it already: the training says if it still needs it
    assert len(make_plan(parent).trials) == 1
