"""The trials of a search and their folders."""

import json

import pytest

from config.run_folder import RunFolder
from search.plan import about, add, clear, confirmation, count_retry, lay_out, make_folder, make_plan
from tests.search.searches import search_folder
from utils import UserError


def names(plan):
    return [trial.name for trial in plan.trials]


def test_trials_are_named_and_every_seed_comes_after_all_combinations(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.001]}, search={"seeds": 2}, seed=5)
    plan = make_plan(parent)
    lay_out(plan)
    assert names(plan) == [f"learning_rate_{rate}{seed}" for seed in ("", "-seed_2") for rate in ("0.01", "0.001")]
    child = json.loads((parent / "learning_rate_0.001-seed_2" / "params.json").read_text())
    assert (child["learning_rate"], child["seed"]) == (0.001, 6)
    assert not {"hyper_search", "search"} & set(child)
    assert about(parent / "learning_rate_0.01")["values"] == {"learning_rate": 0.01}
    assert {RunFolder(trial.path).status()["state"] for trial in plan.trials} == {"queued"}


def test_names_that_only_differ_in_case_get_folders_of_their_own(tmp_path):
    plan = make_plan(search_folder(tmp_path / "x", {"arch": ["conv", "Conv"]}))
    assert len({name.casefold() for name in names(plan)}) == 2


def test_a_wrong_value_is_told_before_anything_is_made(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.1, -1], "ps": [0.5, 2]})
    with pytest.raises(UserError) as caught:
        make_plan(parent)
    assert len(str(caught.value).splitlines()) == 2
    assert [path.name for path in parent.iterdir()] == ["params.json"]


def test_command_line_overrides(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": {"low": 0.001, "high": 0.1}})
    with pytest.raises(UserError, match="needs a"):
        make_plan(parent)
    assert len(make_plan(parent, ["search.method=random", "search.trials=3"]).trials) == 3
    plan = make_plan(parent, ["search.method=random", "search.trials=3", 'search.pruner={"name": "asha", "grace": 1}'])
    lay_out(plan)
    known = {"method": "random", "trials": 3, "pruner": {"name": "asha", "grace": 1}}
    assert about(plan.trials[0].path)["settings"] == known
    with pytest.raises(UserError, match=r"search\.method"):
        make_plan(parent, ["search.method=rndom"])


def test_seed_is_searched_or_repeated(tmp_path):
    with pytest.raises(UserError, match="keep one of them"):
        make_plan(search_folder(tmp_path / "x", {"seed": [1, 2]}, search={"seeds": 2}, seed=0))


def test_the_same_search_goes_on_and_half_laid_out_folders_are_completed(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.001]})
    plan = make_plan(parent)
    lay_out(plan)
    RunFolder(plan.trials[0].path).set_state("finished")
    (plan.trials[1].path / "params.json").unlink()  # killed before it was written
    lay_out(make_plan(parent))
    assert RunFolder(plan.trials[0].path).status()["state"] == "finished"
    assert RunFolder(plan.trials[1].path).status()["state"] == "queued"


def test_a_changed_base_is_refused_once_something_is_trained(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.001]})
    lay_out(make_plan(parent))
    search_folder(parent, {"learning_rate": [0.01, 0.001]}, batch_size=4, about="free")
    plan = make_plan(parent)
    lay_out(plan)  # nothing is trained yet
    assert json.loads((plan.trials[0].path / "params.json").read_text())["batch_size"] == 4
    RunFolder(plan.trials[0].path).set_state("stopped")
    search_folder(parent, {"learning_rate": [0.01, 0.001]}, batch_size=16)
    with pytest.raises(UserError, match=r"changed since learning_rate_0.01 began: batch_size: 4 -> 16; undo"):
        lay_out(make_plan(parent))


def test_what_changes_no_result_reaches_all_trials_that_have_not_finished(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [1, 0.1, 0.01]}, num_workers=2)
    before = make_plan(parent)
    lay_out(before)
    RunFolder(before.trials[0].path).set_state("finished")
    RunFolder(before.trials[1].path).set_state("stopped")
    search_folder(parent, {"learning_rate": [1, 0.1, 0.01]}, num_workers=0)
    plan = make_plan(parent)
    assert plan.digest == before.digest
    lay_out(plan)
    assert [json.loads((t.path / "params.json").read_text())["num_workers"] for t in plan.trials] == [2, 0, 0]
    assert [RunFolder(t.path).status()["state"] for t in plan.trials] == ["finished", "stopped", "queued"]


def test_new_values_need_extend_and_old_ones_must_stay(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01]})
    plan = make_plan(parent)
    lay_out(plan)
    RunFolder(plan.trials[0].path).set_state("finished")
    (plan.trials[0].path / "history.json").write_text("{}")
    search_folder(parent, {"learning_rate": [0.01, 0.1]})
    with pytest.raises(UserError, match=r"learning_rate_0.1 would come .* --extend adds"):
        lay_out(make_plan(parent))
    lay_out(make_plan(parent), extend=True)
    search_folder(parent, {"learning_rate": [0.1]})
    with pytest.raises(UserError, match=r"learning_rate_0.01 would no longer be part"):
        lay_out(make_plan(parent), extend=True)


def test_folders_in_which_nothing_happened_leave_with_their_values(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.1]})
    lay_out(make_plan(parent))
    search_folder(parent, {"learning_rate": [0.1]})
    lay_out(make_plan(parent))
    assert sorted(path.name for path in parent.iterdir()) == ["learning_rate_0.1", "params.json"]
    search_folder(parent, {"learning_rate": [1]})
    lay_out(make_plan(parent), extend=True)
    assert sorted(path.name for path in parent.iterdir()) == ["learning_rate_1", "params.json"]


def test_the_experiments_own_net_goes_along(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01]}, arch="net.py")
    (parent / "net.py").write_text("# a net")
    plan = make_plan(parent)
    lay_out(plan)
    assert (plan.trials[0].path / "net.py").read_text() == "# a net"


def failed(trial):
    """Leaves a trial as a training that failed would."""
    RunFolder(trial.path).set_state("failed", reason="error", message="x")
    (trial.path / "train.log").write_text("x")


def test_a_net_put_right_reaches_failed_and_waiting_trials(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.1, 1]}, arch="net.py")
    (parent / "net.py").write_text("# wrong")
    plan = make_plan(parent)
    lay_out(plan)
    failed(plan.trials[0])
    (parent / "net.py").write_text("# right")
    with pytest.raises(UserError, match=r"began: net.py is another; undo the change, or train them anew by --retry_f"):
        lay_out(plan)
    lay_out(plan, retry_failed=True)
    assert {(trial.path / "net.py").read_text() for trial in plan.trials} == {"# right"}
    assert {RunFolder(trial.path).status()["state"] for trial in plan.trials} == {"queued"}
    (parent / "net.py").write_text("# better")  # nothing has been trained since
    lay_out(plan)
    RunFolder(plan.trials[1].path).set_state("finished")
    (parent / "net.py").write_text("# another")
    with pytest.raises(UserError, match=r"learning_rate_0.1 began: net.py is another; .* search in another"):
        lay_out(plan, retry_failed=True)


@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_failed_trials_are_made_anew_from_a_changed_base(tmp_path, method):
    settings = {"method": method, "trials": 3}
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.1, 1]}, batch_size=16, search=settings)
    plan = make_plan(parent)
    lay_out(plan)
    trial = plan.trials[0] if method == "grid" else add(plan, {"learning_rate": 0.1})[0]
    failed(trial)
    search_folder(parent, {"learning_rate": [0.01, 0.1, 1]}, batch_size=8, search=settings)
    lay_out(make_plan(parent), retry_failed=True)
    assert json.loads((trial.path / "params.json").read_text())["batch_size"] == 8
    assert RunFolder(trial.path).status()["state"] == "queued"
    assert [path.name for path in trial.path.glob("before-*/*.log")] == ["train.log"]
    search_folder(parent, {"learning_rate": [0.2]}, batch_size=8, search=settings)
    with pytest.raises(UserError, match="would no longer be part"):  # its log is still there
        lay_out(make_plan(parent))


def by_hand(trial, **changes):
    """A folder with a trial's name that no search made."""
    trial.path.mkdir()
    (trial.path / "params.json").write_text(json.dumps(trial.params | changes))


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_what_was_trained_by_hand_is_taken_over(tmp_path, state):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.1]})
    plan = make_plan(parent)
    by_hand(plan.trials[0], num_workers=7)
    RunFolder(plan.trials[0].path).set_state(state)
    lay_out(plan)
    assert RunFolder(plan.trials[0].path).status()["state"] == state
    assert about(plan.trials[0].path)["values"] == {"learning_rate": 0.01}
    count_retry(plan.trials[0].path)
    lay_out(make_plan(parent))
    assert about(plan.trials[0].path)["retried"] == 1


@pytest.mark.parametrize("known", [None, "{}", '{"retried": 1}'])
def test_what_was_made_by_hand_for_something_else_is_left_alone(tmp_path, known):
    plan = make_plan(search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.1]}, batch_size=4))
    by_hand(plan.trials[1], batch_size=64)
    if known is not None:
        (plan.trials[1].path / "search.json").write_text(known)
    for making in (lambda: lay_out(plan), lambda: make_folder(plan, plan.trials[1])):
        with pytest.raises(UserError, match=r"learning_rate_0.1: has the name .* batch_size: 64 -> 4; give the folder"):
            making()
    assert not plan.trials[0].path.exists()
    assert json.loads((plan.trials[1].path / "params.json").read_text())["batch_size"] == 64


def test_a_retry_is_counted_and_cleared(tmp_path):
    plan = make_plan(search_folder(tmp_path / "x", {"learning_rate": [0.01]}))
    lay_out(plan)
    path = plan.trials[0].path
    count_retry(path)
    count_retry(path)
    RunFolder(path).set_state("failed", reason="error", message="x")
    (path / "history.json").write_text("{}")
    clear(plan.trials)
    assert about(path)["retried"] == 0
    assert RunFolder(path).status()["state"] == "queued"
    assert not (path / "history.json").exists()


def test_confirmation_is_the_combination_with_more_seeds(tmp_path):
    plan = make_plan(search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.001]}))
    found = confirmation(plan, {"learning_rate": 0.001}, 3)
    assert [t.name for t in found] == ["learning_rate_0.001" + end for end in ("", "-seed_2", "-seed_3")]
    assert found[2].params["seed"] == 2


def test_confirmation_reuses_the_seeds_that_the_search_trains_whatever_their_names(tmp_path):
    rates = [[0.1 / n for n in range(1, 25)], [0.2 / n for n in range(1, 25)]]  # names are cut
    space = {"learning_rate": rates, "arch": ["conv", "Conv"]}
    plan = make_plan(search_folder(tmp_path / "x", space, search={"seeds": 2}, layer_groups=24))
    for trial in plan.trials[:4]:
        found = confirmation(plan, trial.combination, 3)
        assert found[:2] == (trial, plan.trials[trial.number + 3])
        assert found[2].name not in names(plan)
        assert found[2].params["seed"] == 2


@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_trials_keep_the_weights_that_are_best_by_the_metric_of_the_search(tmp_path, method):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.1]}, search={"method": method})
    kept = [make_plan(parent, more).base.get("best_metric") for more in ([], ["search.metric=loss"])]
    assert kept == [None, "loss"]
    assert make_plan(parent, ["search.metric=accuracy"]).digest == make_plan(parent).digest
    plan = make_plan(parent, ["search.metric=loss"])
    trial = plan.trials[0] if method == "grid" else add(plan, {"learning_rate": 0.1})[0]
    assert trial.params["best_metric"] == "loss"


def test_what_is_better(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01]})
    assert make_plan(parent).greater
    assert not make_plan(parent, ["search.metric=loss"]).greater
    assert not make_plan(parent, ["search.metric=loss", "search.mode=min"]).greater
