"""Which parameter decides: against the reference implementation, and where the answer is known."""

import itertools

import numpy as np
import pytest

from search.importance import how_many, importance


def drawn(count, seed=0):
    """A search at random: the rate decides most, the net a little, ps nothing."""
    random = np.random.default_rng(seed)
    rates = 10 ** random.uniform(-5, -1, count)
    ps = random.uniform(0, 0.8, count)
    nets = random.choice(["conv", "deep", "shallow"], count)
    columns = {"ps": ps.tolist(), "learning_rate": rates.tolist(), "arch": nets.tolist()}
    scores = -np.abs(np.log10(rates) + 3) + 0.4 * (nets == "conv") + 0.05 * random.normal(size=count)
    return columns, scores


def best_of(scores, share=0.1):
    return scores >= np.sort(scores)[-int(np.ceil(share * len(scores)))]


@pytest.mark.parametrize("count", [40, 200, 1000])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_agrees_with_optuna(count):
    optuna = pytest.importorskip("optuna")
    columns, scores = drawn(count, count)
    spaces = {"ps": optuna.distributions.FloatDistribution(min(columns["ps"]), max(columns["ps"])),
              "learning_rate": optuna.distributions.FloatDistribution(
                  min(columns["learning_rate"]), max(columns["learning_rate"]), log=True),
              "arch": optuna.distributions.CategoricalDistribution(["conv", "deep", "shallow"])}  # fmt: skip
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for values, score in zip(zip(*columns.values(), strict=True), scores, strict=True):
        params = dict(zip(columns, values, strict=True))
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=score))
    expected = optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
    found = importance(columns, best_of(scores))
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=1e-6)


def test_finds_what_decides():
    columns, scores = drawn(300)
    found = importance(columns, best_of(scores))
    assert list(found) == ["learning_rate", "arch", "ps"]
    assert found["learning_rate"] > 0.6
    assert found["ps"] < 0.1
    assert sum(found.values()) == pytest.approx(1)


def test_listed_values_have_a_cell_each():
    """In a grid each value was tried equally often: only what the best have in common matters."""
    rates, widths, nets = [1e-4, 1e-3, 1e-2, 1e-1], [32, 64, 128], ["conv", "deep"]
    rows = list(itertools.product(rates, widths, nets))
    columns = dict(zip(("learning_rate", "width", "arch"), map(list, zip(*rows, strict=True)), strict=True))
    found = importance(columns, [rate == 1e-2 for rate, _, _ in rows])
    assert found["learning_rate"] > 0.99
    either = importance(columns, [net == "deep" for _, _, net in rows])
    assert either["arch"] > 0.99


def test_without_a_difference_all_are_equal():
    columns, scores = drawn(30)
    assert importance(columns, np.ones(len(scores), dtype=bool)) == pytest.approx(dict.fromkeys(columns, 1 / 3))


def test_values_of_any_kind():
    columns = {"a": [None, [1, 2], {"x": 1}, "b"] * 5, "b": [5] * 20, "c": [True, False] * 10}
    found = importance(columns, [i % 4 == 1 for i in range(20)])
    assert list(found) == ["a", "c", "b"]
    assert found["b"] == 0


def test_how_many_are_the_best():
    assert [how_many(count) for count in (10, 50, 51, 400)] == [5, 5, 6, 40]
