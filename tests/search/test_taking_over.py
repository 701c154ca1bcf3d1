"""What a search does with trainings that are in a cluster's queue already, or that a person took out of it."""

import pytest

from config.run_folder import RunFolder
from search.launchers import Ended
from search.layout import lay_out
from search.plan import about, make_plan
from tests.search.searches import search_folder
from tests.search.simulated import Trainings, search
from utils import Interrupted

RATES = [0.1, 0.01, 0.001, 0.0001]
NAMES = [f"learning_rate_{rate}" for rate in ("0.1", "0.01", "0.001", "0.0001")]


class Queue(Trainings):
    """Trainings of a cluster.

    Attributes:
        left: the names of those that an earlier start of the search left there.
        cancelled: the names of those that a person takes out.
    """

    left: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()

    def held(self):
        return self.left

    def wait(self, seconds):
        gone = [name for name in self.running if name in self.cancelled]
        for name in gone:
            self.running.pop(name).set_state("stopped", reason="signal")
        return [*super().wait(seconds), *(Ended(name, -15, "", cancelled=True) for name in gone)]


@pytest.fixture
def queue():
    return Queue(lambda params, epoch: 0.5)


@pytest.fixture
def parent(tmp_path):
    return search_folder(tmp_path / "x", {"learning_rate": RATES}, num_epochs=2)


def states(parent):
    return [RunFolder(parent / name).status()["state"] for name in NAMES]


def test_what_is_left_in_the_queue_comes_first_even_where_somebody_trains_it(queue, parent):
    lay_out(make_plan(parent))
    job = RunFolder(parent / NAMES[2])
    job.lock()
    job.set_state("running")
    queue.left = (NAMES[3], NAMES[2])
    search(parent, queue, slots=1)
    assert queue.order == [NAMES[2], NAMES[3], NAMES[0], NAMES[1]]
    assert states(parent) == ["finished"] * 4
    job.unlock()


def test_after_a_person_cancelled_one_no_other_is_started_and_what_runs_ends(queue, parent):
    queue.cancelled = (NAMES[1],)
    with pytest.raises(
        Interrupted, match="x: 1 trainings were cancelled in the queue; the same command goes on"
    ) as caught:
        search(parent, queue, slots=2)
    assert caught.value.exit_code == 143
    assert queue.order == NAMES[:2]
    assert states(parent) == ["finished", "stopped", "queued", "queued"]
    queue.cancelled = ()
    search(parent, queue, slots=2)
    assert queue.order[2:] == NAMES[1:]
    assert states(parent) == ["finished"] * 4
    assert set(queue.epochs.values()) == {1}


class FailsThenDies(Queue):
    """The first training fails, and the search is killed before the cluster has the second."""

    def train(self, name, arguments, environment):
        if name in self.order:
            raise KeyboardInterrupt
        super().train(name, arguments, environment)

    def wait(self, seconds):
        ((name, folder),) = self.running.items()
        folder.set_state("failed", reason="error", message="no")
        self.running.clear()
        return [Ended(name, 4, "")]


def test_a_retry_that_was_counted_but_not_begun_is_not_lost(tmp_path):
    parent = search_folder(tmp_path / "x", {"learning_rate": [0.1]}, num_epochs=2)
    with pytest.raises(KeyboardInterrupt):
        search(parent, FailsThenDies(lambda params, epoch: 0.5), "search.retries=1")
    assert about(parent / NAMES[0])["retried"] == 1
    search(parent, Queue(lambda params, epoch: 0.5), "search.retries=1")
    assert RunFolder(parent / NAMES[0]).status()["state"] == "finished"
    assert about(parent / NAMES[0])["retried"] == 1
