"""load_params: what loads, overrides, names from catalogues, every mistake in one pass."""

import json
from pathlib import Path

import pytest

from config.load import MOST_PROBLEMS, is_weights_path, load_params
from config.parts import EarlyStopping
from config.schema import Params
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
        '{"arch": "conv", "search": {"pruner": {"name": "median", "startup": 3}, "metric": "loss", "mode": "min"}}',
        '{"arch": "conv", "search": {"pruner": {"name": "asha", "reduction": 2, "grace": 1}, "mode": "max"}}',
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


MUST_READ = "must read key=value, as in learning_rate=0.01 or early_stopping.patience=3"
RATE = "a number at least 0, a list of 1 to 64 (each a number at least 0) or an object (low, high)"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("", MUST_READ),
        ("batch_size", MUST_READ),
        ("=3", MUST_READ),
        ("early_stopping.=3", MUST_READ),
        (".=3", MUST_READ),
        ("bath_size=3", '"bath_size" is not a parameter; did you mean "batch_size"?'),
        ("batch_size=three", 'batch_size is "three"; it must be a whole number from 1 to 1000000'),
        ("batch_size=1.5", "batch_size is 1.5; it must be a whole number from 1 to 1000000"),
        ("cuda=True", 'cuda is "True"; it must be 0, 1, false or true'),
        ("pretrain=True", 'pretrain is "True"; it must be 0 or 1 without quotes, the name of weights, or a path'),
        ("learning_rate=NaN", "learning_rate is NaN; it must be a finite number"),
        ("learning_rate=[0.1,", f'learning_rate is "[0.1,"; it must be {RATE}'),
        ("learning_rate.low=0.1", 'learning_rate is [0.002, 0.002, 0.002]; it has no "low" to set'),
        ("wd.x.y=1", 'wd is 0.0001; it has no "x" to set'),
        ("early_stopping.patience.x=1", 'early_stopping.patience is 10; it has no "x" to set'),
        ("no.such=1", '"no" is not a parameter; params.schema.json lists them all'),
        ("early_stopping.patiance=3", '"early_stopping.patiance" is not a parameter; did you mean "patience"?'),
        ('early_stopping={"patience": 1, "patience": 2}', "early_stopping.patience is given twice"),
        (
            'early_stopping={"patience": "x"}',
            'early_stopping.patience is "x"; it must be a whole number from 1 to 1000000',
        ),
        ('about={"a": [1, {"b": NaN}]}', "about.a[1].b is NaN; it must be a finite number"),
    ],
)
def test_bad_overrides(file: Path, override: str, message: str) -> None:
    assert problems(file, TEMPLATE, override) == [f"--set {override}: {message}"]


def test_a_bad_override_is_shown_on_one_short_line(file: Path) -> None:
    long = "a" * 99_999
    (line,) = problems(file, TEMPLATE, f"arch={long}")
    assert line == f'--set arch={long[:74]}…: arch is "{long[:78]}…; it must be text of 1 to 500 characters'
    (line,) = problems(file, TEMPLATE, "arch=\udcff")
    assert line == '--set arch=\\udcff: arch is "\\udcff"; that holds half a character (a lone surrogate)'


@pytest.mark.parametrize("value", ["\n\x1b[31m", "[" * 99_999, "a=b", "", " x "])
def test_a_value_that_is_not_json_is_text(file: Path, value: str) -> None:
    assert load(file, TEMPLATE, f"about={value}").about == value


def test_the_last_override_counts(file: Path) -> None:
    assert load(file, TEMPLATE, "batch_size=x", "batch_size=8").batch_size == 8
    assert problems(file, TEMPLATE, "batch_size=8", " batch_size =x") == [
        '--set  batch_size =x: batch_size is "x"; it must be a whole number from 1 to 1000000'
    ]
    assert problems(file, TEMPLATE, "early_stopping.patience=x", 'early_stopping={"min_delta": -1}') == [
        '--set early_stopping={"min_delta": -1}: early_stopping.min_delta is -1; it must be a number at least 0'
    ]


def test_mistakes_in_overrides_follow_those_in_the_file_in_their_order(file: Path) -> None:
    lines = problems(file, '{"arch": 1}', "wd=-1", "ps", "about=1", "early_stopping.patience=0")
    assert [line.partition(":")[0] for line in lines] == [
        "params.json", "--set wd=-1", "--set ps", "--set about=1", "--set early_stopping.patience=0"
    ]  # fmt: skip


# --- names and floods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"arch": "resnet81"', '1: arch is "resnet81", which is not known; did you mean "resnet18"?'),
        ('"arch": "ResNet18"', '1: arch is "ResNet18", which is not known; did you mean "resnet18"?'),
        ('"optimizer": "Adamw"', '1: optimizer is "Adamw", which is not known; did you mean "AdamW"?'),
        ('"optimizer": "zzz"', '1: optimizer is "zzz", which is not known; choose from AdamW, SGD'),
        ('"scheduler": "one_cylce"', '1: scheduler is "one_cylce", which is not known; did you mean "one_cycle"?'),
        ('"loss": "focall"', '1: loss is "focall", which is not known; did you mean "focal"?'),
        ('"metrics": ["accuracy",\n"f2"]', '2: metrics[1] is "f2", which is not known; did you mean "f1"?'),
        (
            '"augment": ["horizontal_flop"]',
            '1: augment[0] is "horizontal_flop", which is not known; did you mean "horizontal_flip"?',
        ),
        (
            '"augment": [{"name": "vertical"}]',
            '1: augment[0].name is "vertical", which is not known; choose from horizontal_flip, random_resized_crop, '
            "v2.GaussianBlur",
        ),
        (
            '"augment": [{"name": "v2.GaussianBlur", "any": 1},\n{"name": "horizontal_flip", "p": 1, "prob": 1}]',
            "2: augment[1].prob is not an argument of horizontal_flip; choose from p",
        ),
        (
            '"optimizer_arguments":\n{"momentum": 0.9}',
            "2: optimizer_arguments.momentum is not an argument of AdamW; choose from betas, eps",
        ),
        (
            '"loss_arguments": {"label_smothing": 0.9}',
            '1: loss_arguments.label_smothing is not an argument of cross_entropy; did you mean "label_smoothing"?',
        ),
        ('"scheduler_arguments": {"gamma": 0.9}', "1: scheduler_arguments.gamma is not an argument of one_cycle"),
        (
            '"optimizer": 3, "optimizer_arguments": {"x": 1}',
            "1: optimizer is 3; it must be text of 1 to 500 characters",
        ),
        ('"optimizer_arguments": 3', "1: optimizer_arguments is 3; it must be an object"),
        (
            '"augment": [{"name": "random_resized_crop", "scal": 1}]',
            '1: augment[0].scal is not an argument of random_resized_crop; did you mean "scale"?',
        ),
    ],
)
def test_names_are_checked_in_the_same_pass(file: Path, text: str, expected: str) -> None:
    arch = "" if '"arch"' in text else '"arch": "resnet18", '
    assert problems(file, f"{{{arch}{text}}}", catalogues=CATALOGUES) == [f"params.json:{expected}"]


def test_every_unknown_name_is_told(file: Path) -> None:
    lines = problems(file, '{"arch": "resnet18", "metrics": ["accuracy", "f2", "top_2"]}', catalogues=CATALOGUES)
    assert lines == [
        'params.json:1: metrics[1] is "f2", which is not known; did you mean "f1"?',
        'params.json:1: metrics[2] is "top_2", which is not known; did you mean "top_3"?',
    ]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("ps", '"ps" is not a parameter in this file; give it a value outside hyper_search too'),
        ("hyper_search", '"hyper_search" is not a parameter in this file; choose from arch'),
        ("about", '"about" is not a parameter in this file; choose from arch'),
        ("about.arhc", '"about.arhc" is not a parameter in this file; choose from arch'),
        ("arhc", '"arhc" is not a parameter in this file; did you mean "arch"?'),
    ],
)
def test_what_cannot_be_searched(file: Path, key: str, expected: str) -> None:
    text = json.dumps({"arch": "conv", "about": {"arhc": 1}, "hyper_search": {key: [1]}})
    assert problems(file, text) == [f"params.json:1: hyper_search: {expected}"]


def test_an_unknown_name_has_no_arguments_to_check(file: Path) -> None:
    text = '{"arch": "resnet18", "optimizer": "zzz", "optimizer_arguments": {"x": 1}, "loss_arguments": {"x": 1}}'
    assert problems(file, text, catalogues=CATALOGUES) == [
        'params.json:1: optimizer is "zzz", which is not known; choose from AdamW, SGD',
        "params.json:1: loss_arguments.x is not an argument of cross_entropy; "
        "choose from class_weights, label_smoothing",
    ]


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
  "hyper_search": {"im_size": [1]},
  "\\ud800": 1
}"""
    lines = problems(file, text, "threads=x", "seed", "optimizer=Adamm", catalogues=CATALOGUES)
    assert lines == [
        "params.json: arch is missing: shallow, deep, conv, mambavision_t, a net of torchvision or timm, "
        'or the "net.py" beside this file',
        'params.json:2: "bath_size" is not a parameter; did you mean "batch_size"?',
        'params.json:4: early_stopping.patience is "x"; it must be a whole number from 1 to 1000000',
        'params.json:4: "early_stopping.monitor" is not a parameter; did you mean "monitor_metric"?',
        "params.json:5: learning_rate.high is missing: learning rate of the head",
        'params.json:6: "learning_rate.hihg" is not a parameter; did you mean "high"?',
        'params.json:7: metrics[0] is "acuracy", which is not known; did you mean "accuracy"?',
        "params.json:8: wd is NaN; it must be a finite number",
        'params.json:8: about is "\\ud800"; that holds half a character (a lone surrogate)',
        "params.json:9: ps is given twice, on lines 3 and 9",
        "params.json:9: ps is 3; it must be a number at least 0 and below 1",
        'params.json:10: best_metric is "f1"; it must be "loss" or listed in metrics; choose from acuracy, loss',
        'params.json:11: hyper_search: "im_size" is not a parameter in this file; did you mean "optimizer"?',
        "params.json:12: \\ud800 holds half a character (a lone surrogate) in its name",
        '--set threads=x: threads is "x"; it must be a whole number from 0 to 1024',
        f"--set seed: {MUST_READ}",
        '--set optimizer=Adamm: optimizer is "Adamm", which is not known; did you mean "AdamW"?',
    ]


@pytest.mark.parametrize("number", [MOST_PROBLEMS - 1, MOST_PROBLEMS, MOST_PROBLEMS + 1, 20_000])
def test_a_flood_of_mistakes_is_cut(file: Path, number: int) -> None:
    unknown = problems(file, json.dumps({f"key{n}": n for n in range(number)} | {"arch": "conv"}))
    twice = problems(file, "{" + ",".join(['"arch": "conv"'] * (number + 1)) + "}")
    assert unknown[0] == 'params.json:1: "key0" is not a parameter; params.schema.json lists them all'
    assert twice[0] == "params.json:1: arch is given twice, on lines 1 and 1"
    for lines in (unknown, twice):
        assert len(lines) == min(number, MOST_PROBLEMS) + (number > MOST_PROBLEMS)
        assert (lines[-1] == "… and more") == (number > MOST_PROBLEMS)


def test_a_message_is_cut(file: Path) -> None:
    names = {"x" * 60 + letter: None for letter in "abcdefgh"}
    with pytest.raises(UserError) as caught:
        load(file, '{"arch": "zzz"}', catalogues={"arch": names})
    whole = f'arch is "zzz", which is not known; choose from {", ".join(names)}'
    assert len(whole) > 500
    assert str(caught.value) == f"{file}:1: {whole[:499]}…"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("no/such/params.json", "No such file or directory"),
        (".", "Is a directory"),
        ("x" * 5000, "File name too long"),
        ("a\0b", "embedded null byte"),
    ],
)
def test_files_that_cannot_be_read(path: str, why: str) -> None:
    with pytest.raises(UserError) as caught:
        load_params(path)
    assert str(caught.value) == f"{path}: cannot be read ({why})".replace("\0", "\\x00")


# --- pretrain ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pretrain", "path"),
    [("experiments/a", True), ("a.pth", True), ("a.safetensors", True), ("IMAGENET1K_V1", False), (True, False)],
)
def test_what_names_a_weights_file(pretrain: bool | str, path: bool) -> None:
    assert is_weights_path(pretrain) == path
