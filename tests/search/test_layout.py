"""The trials' folders."""

import json

import pytest

from config.run_folder import RunFolder
from search.layout import add, clear, lay_out, make_folder
from search.plan import about, count_retry, make_plan
from tests.search.searches import search_folder
from utils import TEMPORARY_PREFIX, TrainingFault, UserError


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


def test_what_a_killed_write_left_is_nothing_trained(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.01, 0.1]}, batch_size=4)
    first, second = make_plan(parent).trials
    lay_out(make_plan(parent))
    for trial in (first, second):
        (trial.path / f"{TEMPORARY_PREFIX}x").write_text("")
        (trial.path / "status.json").write_text("{")
    search_folder(parent, {"learning_rate": [0.1]}, batch_size=8)
    lay_out(make_plan(parent))
    clear(make_plan(parent).trials)
    assert not first.path.exists()
    assert json.loads((second.path / "params.json").read_text())["batch_size"] == 8


def test_a_file_where_a_folder_should_be_is_told_in_a_line(tmp_path):
    plan = make_plan(search_folder(tmp_path / "x", {"learning_rate": [0.01]}))
    plan.trials[0].path.write_text("")
    with pytest.raises(TrainingFault, match=r"learning_rate_0.01"):
        lay_out(plan)
