"""load_params: what loads, overrides, names from catalogues, every mistake in one pass."""

import json
from pathlib import Path

import pytest

from config.load import MOST_PROBLEMS, load_params
from config.schema import EarlyStopping, Params
from tests.config.params_files import CATALOGUES, TEMPLATE, load, problems
from utils import UserError

# --- what loads ------------------------------------------------------------------------------------------------------


def test_source_template_loads_unchanged(file: Path) -> None:
    params = load(file, TEMPLATE, catalogues=CATALOGUES)
    assert params.pretrain is True
    assert params.cuda is True
    assert params.learning_rate == [0.002] * 3
    assert params.layer_groups == 3
    assert params.early_stopping == EarlyStopping(patience=10, monitor_metric="loss", min_delta=0.01, minimize=True)
    assert params.hyper_search == {"ps": [0.5, 0.75]}
    given = json.loads(TEMPLATE)
    assert {key: params.model_dump(mode="json")[key] for key in given} == given | {
        "early_stopping": given["early_stopping"] | {"action": "stop", "tail_epochs": 2}
    }


def test_arch_alone_is_enough(file: Path) -> None:
    assert load(file, '{"arch": "conv"}') == Params(arch="conv")


@pytest.mark.parametrize(
    "text",
    [
        b'\xef\xbb\xbf{"arch": "conv"}',
        '{"arch": "conv", "about": {"en": "Ünïcödé \\ud83d\\ude00", "deep": [[{"a": [1, null]}]]}}',
        '{"arch": "conv", "$schema": "../../params.schema.json"}',
        '{"arch": "conv", "skip_bad": false, "cuda": 0, "early_stopping": {}}',
        '{"arch": "net.py", "pretrain": "experiments/imagenette"}',
        '{"arch": "conv", "augment": [], "metrics": [], "best_metric": "loss"}',
        '{"arch": "conv", "augment": [{"name": "horizontal_flip", "p": 0.2}, {"name": "v2.GaussianBlur", "any": 1}]}',
        '{"arch": "conv", "learning_rate": {"low": 1e-5, "high": 1e-2}, "layer_groups": 5}',
        '{"arch": "conv", "learning_rate": [0, 1], "layer_groups": 2, "wd": 1}',
        '{"arch": "conv", "normalize": {"mean": [0.5], "std": [0.2]}, "channels": 1}',
        '{"arch": "conv", "optimizer": "SGD", "optimizer_arguments": {"momentum": 0.9}}',
        '{"arch": "conv", "metrics": ["f1"], "best_metric": "f1", "early_stopping": {"monitor_metric": "f1"}}',
        '{"arch": "conv", "ps": 0, "wd": 0, "early_stopping": {"patience": 3},'
        ' "hyper_search": {"ps,wd": [[0, 1]], "early_stopping.patience": [1, 2], "arch": ["conv", "deep"]}}',
    ],
)
def test_also_loads(file: Path, text: str | bytes) -> None:
    params = load(file, text, catalogues=CATALOGUES | {"arch": {"conv": None}})
    assert Params.model_validate(params.model_dump(mode="json")) == params


def test_a_list_of_rates_sets_the_layer_groups(file: Path) -> None:
    assert load(file, '{"arch": "conv", "learning_rate": [0.1, 0.2, 0.3, 0.4]}').layer_groups == 4
    assert load(file, '{"arch": "conv", "learning_rate": 0.1}').layer_groups == 3


def test_params_cannot_change(file: Path) -> None:
    params = load(file, TEMPLATE)
    with pytest.raises(ValueError, match="frozen"):
        params.batch_size = 3


# --- overrides -------------------------------------------------------------------------------------------------------


def test_overrides(file: Path) -> None:
    overrides = ["learning_rate=0.01", "early_stopping.patience=3", "arch=deep", "cuda=0", "hyper_search=null"]
    params = load(file, TEMPLATE, *overrides, "optimizer_arguments.betas=[0.9,0.99]", "arch=conv", "about=a=b")
    assert (params.learning_rate, params.arch, params.cuda, params.about) == (0.01, "conv", False, "a=b")
    assert params.early_stopping == EarlyStopping(patience=3, min_delta=0.01, minimize=True)
    assert params.optimizer_arguments == {"betas": [0.9, 0.99]}
    assert params.hyper_search is None


def test_overrides_make_the_object_they_lead_into(file: Path) -> None:
    made = ["early_stopping.patience=3", "normalize.mean=[0,0,0]", "normalize.std=[1,1,1]", "about="]
    params = load(file, '{"arch": "conv", "early_stopping": null}', *made, 'pretrain="1.pt"')
    assert params.early_stopping == EarlyStopping(patience=3)
    assert params.normalize != "auto"
    assert (params.about, params.pretrain) == ("", "1.pt")


def test_an_override_mends_the_file(file: Path) -> None:
    assert load(file, '{"arch": "conv", "wd": NaN}', "wd=0.1").wd == 0.1
    assert (
        load(file, '{"arch": "conv", "early_stopping": {"patience": 0}}', "early_stopping=null").early_stopping is None
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("", "--set : must read key=value"),
        ("batch_size", "--set batch_size: must read key=value, as in learning_rate=0.01"),
        ("=3", "--set =3: must read key=value"),
        ("early_stopping.=3", "--set early_stopping.=3: must read key=value"),
        (".=3", "--set .=3: must read key=value"),
        ("bath_size=3", '--set bath_size=3: "bath_size" is not a parameter; did you mean "batch_size"?'),
        ("batch_size=three", '--set batch_size=three: batch_size is "three"; it must be a whole number from 1'),
        ("batch_size=1.5", "--set batch_size=1.5: batch_size is 1.5; it must be a whole number"),
        ("cuda=True", '--set cuda=True: cuda is "True"; it must be 0, 1, false or true'),
        ("pretrain=True", '--set pretrain=True: pretrain is "True"; it must be 0 or 1 without quotes'),
        ("learning_rate=NaN", "--set learning_rate=NaN: learning_rate is NaN; it must be a finite number"),
        ("learning_rate=[0.1,", '--set learning_rate=[0.1,: learning_rate is "[0.1,"; it must be a number'),
        ("learning_rate.low=0.1", 'learning_rate is [0.002, 0.002, 0.002]; it has no "low" to set'),
        ("wd.x.y=1", 'wd is 0.0001; it has no "x" to set'),
        ("no.such=1", '--set no.such=1: "no" is not a parameter'),
        ("early_stopping.patiance=3", '"early_stopping.patiance" is not a parameter; did you mean "patience"?'),
        ('early_stopping={"patience": 1, "patience": 2}', "early_stopping.patience is given twice"),
        ('early_stopping={"patience": "x"}', '--set early_stopping={"patience": "x"}: early_stopping.patience is "x"'),
        ("arch=\udcff", "--set arch=\\udcff: arch is"),
        ("about=\n\x1b[31m", None),
        ("about=" + "[" * 99999, None),
        ("arch=" + "a" * 99999, "; it must be text of 1 to 500 characters"),
    ],
)
def test_bad_overrides(file: Path, override: str, expected: str | None) -> None:
    if expected is None:
        load(file, TEMPLATE, override)
    else:
        (line,) = problems(file, TEMPLATE, override)
        assert expected in line


# --- names and floods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"arch": "resnet81"', 'arch is "resnet81", which is not known; did you mean "resnet18"?'),
        ('"arch": "ResNet18"', 'did you mean "resnet18"?'),
        ('"arch": "resnet18", "optimizer": "Adamw"', 'optimizer is "Adamw", which is not known; did you mean "AdamW"?'),
        ('"arch": "resnet18", "optimizer": "zzz"', 'optimizer is "zzz", which is not known; choose from AdamW, SGD'),
        ('"arch": "resnet18", "scheduler": "one_cylce"', 'did you mean "one_cycle"?'),
        ('"arch": "resnet18", "loss": "focall"', 'did you mean "focal"?'),
        ('"arch": "resnet18", "metrics": ["accuracy",\n"f2"]', 'json:2: metrics[1] is "f2", which is not known'),
        ('"arch": "resnet18", "augment": ["horizontal_flop"]', 'augment[0] is "horizontal_flop", which is'),
        ('"arch": "resnet18", "augment": [{"name": "vertical"}]', 'augment[0].name is "vertical", which is not known'),
        (
            '"arch": "resnet18", "augment": [{"name": "horizontal_flip", "prob": 1}]',
            "augment[0].prob is not an argument of horizontal_flip; choose from p",
        ),
        (
            '"arch": "resnet18", "optimizer_arguments":\n{"momentum": 0.9}',
            "params.json:2: optimizer_arguments.momentum is not an argument of AdamW; choose from betas, eps",
        ),
        (
            '"arch": "resnet18", "loss_arguments": {"label_smothing": 0.9}',
            'loss_arguments.label_smothing is not an argument of cross_entropy; did you mean "label_smoothing"?',
        ),
        ('"arch": "resnet18", "scheduler_arguments": {"gamma": 0.9}', "scheduler_arguments.gamma is not an"),
    ],
)  # fmt: skip
def test_names_are_checked_in_the_same_pass(file: Path, text: str, expected: str) -> None:
    (line,) = problems(file, f"{{{text}}}", catalogues=CATALOGUES)
    assert expected in line


def test_a_missing_arch_is_no_unknown_name(file: Path) -> None:
    (line,) = problems(file, "{}", catalogues=CATALOGUES)
    assert "arch is missing" in line


def test_every_mistake_in_one_pass_in_the_order_of_the_file(file: Path) -> None:
    text = """{
  "bath_size": 3,
  "ps": 2,
  "early_stopping": {"patience": "x", "monitor": 1},
  "learning_rate": {"low": 0.1,
                    "hihg": 2},
  "metrics": ["acuracy"],
  "wd": NaN, "about": "\\ud800",
  "ps": 3,
  "best_metric": "f1",
  "hyper_search": {"im_size": [1]}
}"""
    lines = problems(file, text, "threads=x", "seed", "optimizer=Adamm", catalogues=CATALOGUES)
    starts = [line.partition(": ")[0] for line in lines]
    assert starts == [
        "params.json",
        *(f"params.json:{n}" for n in (2, 4, 4, 5, 6, 7, 8, 8, 9, 9, 10, 11)),
        "--set threads=x",
        "--set seed",
        "--set optimizer=Adamm",
    ]


def test_a_flood_of_mistakes_is_cut(file: Path) -> None:
    text = json.dumps({f"key{n}": n for n in range(20_000)})
    assert len(problems(file, text)) == MOST_PROBLEMS + 1
    text = "{" + ",".join(['"arch": "conv"'] * 20_000) + "}"
    assert 1 < len(problems(file, text)) <= MOST_PROBLEMS


@pytest.mark.parametrize("path", ["no/such/params.json", ".", "a\0b", "x" * 5000])
def test_files_that_cannot_be_read(path: str) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(.+\)") as caught:
        load_params(path)
    assert str(caught.value).isprintable()
