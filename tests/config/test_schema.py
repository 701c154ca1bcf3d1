"""Params: bounds at their edges, the checked-in schema, a light import."""

import json
import math
import operator
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import include
from config.parts import EarlyStopping, Normalization, RateRange
from config.schema import Params, json_schema
from config.strict_json import Place

# The edge that is still right, and the first wrong one.
EDGES: list[tuple[str, Any, Any]] = [
    ("n_clas", 2, 1),
    ("im_sz", 8, 7),
    ("im_sz", 1024, 1025),
    ("ps", 0, -1e-9),
    ("ps", 0.999, 1),
    ("crop_fraction", 1, 1.001),
    ("crop_fraction", 0.1, 0.09),
    ("max_megapixels", 1e-3, 0),
    ("mixup", 0, -1e-9),
    ("cutmix", 0, -1e-9),
    ("mixing_off_epochs", 0, -1),
    ("progressive_resizing", {"im_sz": 8, "epochs": 1}, {"im_sz": 7, "epochs": 1}),
    ("progressive_resizing", {"im_sz": 223, "epochs": 1}, {"im_sz": 224, "epochs": 1}),
    ("progressive_resizing", {"im_sz": 100, "epochs": 1}, {"im_sz": 100, "epochs": 0}),
    ("overfit", 0, -1),
    ("cache_gigabytes", 0, -1e-9),
    ("gpu_gigabytes", 0, -1e-9),
    ("num_workers", 0, -1),
    ("num_workers", 64, 65),
    ("num_epochs", 1, 0),
    ("batch_size", 1, 0),
    ("bs_test", 1, 0),
    ("learning_rate", 1e-9, -1e-9),
    ("learning_rate", [1, 0], [1, -1e-9]),
    ("learning_rate", [0, 1e-9], [0, 0]),
    ("learning_rate", [1] * 64, [1] * 65),
    ("learning_rate", {"low": 1, "high": 1.001}, {"low": 1, "high": 1}),
    ("learning_rate", {"low": 1e-9, "high": 1}, {"low": 0, "high": 1}),
    ("learning_rate", {"low": 1e-9, "high": 1e-8}, {"low": -1, "high": 0}),
    ("layer_groups", 1, 0),
    ("layer_groups", 64, 65),
    ("unfreeze_epochs", 1, 0),
    ("wd", 0, -1e-9),
    ("div_factor", 1.001, 1),
    ("pct_start", 1e-9, 0),
    ("pct_start", 0.999, 1),
    ("gradient_accumulation", 1, 0),
    ("gradient_clip", 0, -1e-9),
    ("ema_decay", 0, -1e-9),
    ("ema_decay", 0.9999, 1),
    ("average_epochs", 1, 0),
    ("save_summary_steps", 1, 0),
    ("checkpoint_minutes", 0, -1e-9),
    ("compile", 1, 2),
    ("threads", 0, -1),
    ("threads", 1024, 1025),
    ("seed", 0, -1),
    ("seed", 2**32 - 1, 2**32),
    ("background", [0, 0, 255], [0, 0, 256]),
    ("background", [0, 0, 0], [0, 0, -1]),
    ("arch", "a" * 500, "a" * 501),
    ("arch", "RegNetX.pyx", "x.py"),
    ("early_stopping", {"patience": 1}, {"patience": 0}),
    ("early_stopping", {"min_delta": 0}, {"min_delta": -1e-9}),
    ("early_stopping", {"patience": 10**6}, {"patience": 10**6 + 1}),
    ("early_stopping", {"tail_epochs": 0}, {"tail_epochs": -1}),
    ("early_stopping", {"tail_epochs": 1000}, {"tail_epochs": 1001}),
    ("early_stopping", {"monitor_metric": "accuracy", "minimize": 0}, {"minimize": 0}),
    *(
        (key, 10**6, 10**6 + 1)
        for key in ("n_clas", "mixing_off_epochs", "overfit", "num_epochs", "batch_size", "bs_test", "unfreeze_epochs",
                    "gradient_accumulation", "average_epochs", "save_summary_steps")
    ),
    ("progressive_resizing", {"im_sz": 100, "epochs": 10**6}, {"im_sz": 100, "epochs": 10**6 + 1}),
    ("progressive_resizing", {"im_sz": 100, "epochs": 1}, {"im_sz": 1025, "epochs": 1}),
    *(
        ("search", {key: right}, {key: wrong})
        for key, right, wrong in [
            ("trials", 1, 0), ("trials", 10**5, 10**5 + 1), ("seeds", 1, 0), ("seeds", 100, 101), ("seed", 0, -1),
            ("seed", 2**32 - 1, 2**32), ("hours", 0, -1e-9), ("retries", 0, -1), ("retries", 100, 101),
        ]
    ),
    *(
        ("search", {"pruner": {"name": name, key: right}}, {"pruner": {"name": name, key: wrong}})
        for name, key, right, wrong in [
            ("asha", "grace", 1, 0), ("asha", "grace", 10**6, 10**6 + 1), ("asha", "reduction", 2, 1),
            ("asha", "reduction", 100, 101), ("median", "startup", 1, 0), ("median", "startup", 10**5, 10**5 + 1),
        ]
    ),
    ("monitor", {"interval": 1}, {"interval": 0}),
    ("monitor", {"interval": 10**6}, {"interval": 10**6 + 1}),
    ("monitor", {"what": ["updates"]}, {"what": ["updates", "updates"]}),
    ("monitor", {"what": []}, {"what": ["gradients"]}),
    ("monitor", 1, 2),
    ("trackers", ["mlflow", "tensorboard"], ["mlflow", "mlflow"]),
    ("trackers", [], ["wandb"]),
    ("normalize", {"mean": [-1, 0, 1], "std": [1, 1, 1e-9]}, {"mean": [-1, 0, 1], "std": [1, 1, 0]}),
]  # fmt: skip


@pytest.mark.parametrize(("key", "right", "wrong"), EDGES)
def test_edges(key: str, right: Any, wrong: Any) -> None:
    Params.model_validate({"arch": "conv", key: right})
    with pytest.raises(ValidationError, match=key):
        Params.model_validate({"arch": "conv", key: wrong})


# The first wrong value at a bound.
WRONG: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": operator.lt, "maximum": operator.gt, "exclusiveMinimum": operator.le, "exclusiveMaximum": operator.ge
}  # fmt: skip


def bounds(node: dict[str, Any], place: Place = ()) -> Iterator[tuple[Place, str, Any]]:
    """Every bound of a number below a part of the schema; -1 stands for the items of a list."""
    node = json_schema()["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    yield from ((place, name, node[name]) for name in WRONG if name in node)
    for option in node.get("anyOf", ()):
        yield from bounds(option, place)
    for key, inner in node.get("properties", {}).items():
        yield from bounds(inner, (*place, key))
    if "items" in node:
        yield from bounds(node["items"], (*place, -1))


def number_at(value: Any, place: Place) -> Any:
    """The number at a place, nan where there is none."""
    for part in place:
        try:
            value = value[part]
        except (LookupError, TypeError):
            return math.nan
    return value if type(value) in (int, float) else math.nan


BOUNDS = list(bounds(json_schema()))


@pytest.mark.parametrize(("place", "name", "bound"), BOUNDS, ids=lambda value: str(value).replace(" ", ""))
def test_both_sides_of_every_bound_are_tested(place: Place, name: str, bound: Any) -> None:
    is_wrong = WRONG[name]
    assert any(
        is_wrong(number_at(wrong, place[1:]), bound) and not is_wrong(number_at(right, place[1:]), bound)
        for key, right, wrong in EDGES
        if key == place[0] and not math.isnan(number_at(right, place[1:]))
    )


FLAGS = ("cuda", "pretrain", "skip_bad")


@pytest.mark.parametrize("key", FLAGS)
def test_flags_are_zero_one_false_true_and_nothing_else(key: str) -> None:
    values: tuple[Any, ...] = (0, 1, False, True)
    for value in values:
        assert getattr(Params.model_validate({"arch": "conv", key: value}), key) is bool(value)
    words = ("0", "1", "true", "False", "YES", "No", "none", "Null", "")
    wrong: tuple[Any, ...] = (*words, 2, -1, 0.0, 1.0, None, [], {})
    for value in wrong:
        with pytest.raises(ValidationError):
            Params.model_validate({"arch": "conv", key: value})


WRONG_KINDS: dict[type, tuple[Any, ...]] = {
    int: (True, 1.5, 2.0, "128", [1], {}, None),
    float: (True, "1.5", ["x"], {}, None),
    str: (1, 1.5, True, ["a"], {"a": 1}, None),
    list: ("a", 1, {"a": 1}, None),
    dict: ("a", 1, [1], None),
}


@pytest.mark.parametrize("key", Params.model_fields)
def test_no_kind_of_value_is_taken_for_another(key: str) -> None:
    for wrong in WRONG_KINDS.get(type(Params.model_fields[key].default), ()):
        with pytest.raises(ValidationError, match=key):
            Params.model_validate({"arch": "conv", key: wrong})


def test_defaults_are_valid_and_not_shared() -> None:
    one, other = Params(arch="conv"), Params(arch="conv")
    assert Params.model_validate(one.model_dump()) == one
    one.metrics.append("f1")
    one.optimizer_arguments["eps"] = 1
    assert other.metrics == ["accuracy"]
    assert Params(arch="conv").optimizer_arguments == {}


@pytest.mark.parametrize("model", [Params, EarlyStopping, RateRange, Normalization])
def test_every_parameter_says_in_one_line_what_it_means(model: type[Params]) -> None:
    for key, field in model.model_fields.items():
        assert field.description, key
        assert field.description.isprintable(), key
        assert len(field.description) <= 110, key


def test_checked_in_schema_is_that_of_the_code() -> None:
    written = json.loads((include.ROOT / "params.schema.json").read_text(encoding="utf-8"))
    assert written == json_schema(), "run python -m config.schema"


def test_module_writes_the_schema(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(include, "ROOT", tmp_path)
    runpy.run_path(str(Path(include.__file__).parent / "config" / "schema.py"), run_name="__main__")
    assert json.loads((tmp_path / "params.schema.json").read_bytes()) == json_schema()


def test_import_is_light() -> None:
    code = (
        "import sys, time; start = time.process_time(); import config.load; print(time.process_time() - start);"
        "print(*(m for m in ('torch', 'numpy', 'pandas', 'tqdm') if m in sys.modules))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], cwd=include.ROOT, capture_output=True, text=True, check=True)
            for _ in range(3)]  # fmt: skip
    seconds, heavy = zip(*(run.stdout.split("\n")[:2] for run in runs), strict=True)
    assert set(heavy) == {""}
    assert min(map(float, seconds)) < 2  # 0.14 to 0.28 measured; torch would take more
