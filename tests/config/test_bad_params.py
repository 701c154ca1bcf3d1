"""One clear line for every mistake in a params.json."""

from pathlib import Path

import pytest

from config.parts import EarlyStopping
from config.schema import json_schema
from config.wording import ELSEWHERE
from tests.config.params_files import problems

NUMBER = "a number at least 0"
BAD_FILES = [
    # not JSON
    ("", "params.json:1: is empty"),
    (" \n\n ", "params.json:3: is empty"),
    ('{"arch": "conv",}', "params.json:1: has a comma after the last item"),
    ('{"arch": "conv",\n "ps": [1, 2,]}', "params.json:2: has a comma after the last item"),
    ('{"arch": "conv", // net\n "ps": 0}', "params.json:1: holds a comment"),
    ('{"arch": "conv"\n # net\n}', "params.json:2: holds a comment"),
    ('/* net */ {"arch": "conv"}', "params.json:1: holds a comment"),
    ("{'arch': 'conv'}", "params.json:1: has single quotes"),
    ('{"arch": "conv", "cuda": True}', "params.json:1: has True, False or None"),
    ('{"arch": "conv",\n "n_clas": None}', "params.json:2: has True, False or None"),
    ('{"arch": "conv"\n "ps": 0}', "params.json:2: lacks a comma or a closing bracket before column 2"),
    ('{"arch": "conv"', "params.json:1: lacks a comma or a closing bracket"),
    ('{"arch": "conv"}\n\nThe learning rate is 0.1', "params.json:3: goes on after its end"),
    ('{"arch": "conv"}}', "params.json:1: goes on after its end"),
    ('{"arch: "conv"}', "params.json:1: is not JSON: Expecting ':' delimiter at column 10"),
    ('{arch: "conv"}', "params.json:1: is not JSON: Expecting property name"),
    ('{"arch": "co\nnv"}', "params.json:1: is not JSON: Invalid control character"),
    ('{"arch": "\\x"}', "params.json:1: is not JSON: Invalid \\escape"),
    ('{"wd": .5}', "params.json:1: is not JSON: Expecting value at column 8"),
    ("[" * 100_000, "params.json: is nested deeper than 32 levels"),
    ('{"about":\n' + '{"a":' * 40 + "1" + "}" * 41, "params.json:2: is nested deeper than 32 levels"),
    ('{"arch": "conv"}'.encode("utf-16"), "params.json:1: is UTF-16 or not text at all; save it as UTF-8"),
    ('{"arch": "conv"}'.encode("utf-16-le"), "params.json:1: is UTF-16 or not text at all"),
    ('{"arch": "conv",\n"about": "Ü"}'.encode("latin-1"), "params.json:2: is not UTF-8 (byte 0xdc)"),
    (b" " * (2**20 + 1), "params.json: is larger than 1 MB"),
    ('[{"arch": "conv"}]', 'params.json:1: holds [{"arch": "conv"}]; it must be one object'),
    ('"conv"', 'params.json:1: holds "conv"; it must be one object'),
    ("null", "params.json:1: holds null; it must be one object"),
    # arch
    ("{}", "params.json: arch is missing: shallow, deep, conv, mambavision_t, a net of torchvision or timm"),
    ('{"arch": null}', "arch is null; it must be text of 1 to 500 characters"),
    ('{"arch": ""}', 'arch is ""; it must be text of 1 to 500'),
    ('{"arch": ["conv"]}', 'arch is ["conv"]; it must be text'),
    ('{"arch": "nets/mine"}', 'arch is "nets/mine"; it must be a name, or "net.py" for the net.py beside this file'),
    ('{"arch": "..\\\\mine"}', "; it must be a name"),
    ('{"arch": "mynet.py"}', 'arch is "mynet.py"; it must be a name, or "net.py"'),
    ('{"arch": "a\\u0000b"}', 'arch is "a\\u0000b"; it must hold no control characters'),
    ('{"arch": "\\udc00"}', "; that holds half a character"),
]

BAD_PARAMETERS = [  # each follows `{"arch": "conv",` on the first line of a file
    # keys
    ('\n\n"bath_size": 3', 'params.json:3: "bath_size" is not a parameter; did you mean "batch_size"?'),
    ('"Batch_Size": 3', '"Batch_Size" is not a parameter; did you mean "batch_size"?'),
    ('"lr": 3', '"lr" is not a parameter; did you mean "learning_rate"?'),
    ('"patience": 3', '"patience" is not a parameter; did you mean "early_stopping.patience"?'),
    ('"xyzzy": 3', '"xyzzy" is not a parameter; params.schema.json lists them all'),
    ('"": 3', '"" is not a parameter'),
    ('"save": 3', '"save" is not a parameter'),
    ('"__dict__": {}', '"__dict__" is not a parameter'),
    ('"model_fields": {}', '"model_fields" is not a parameter'),
    ('"a\\nb\\u001b[31m": 1', '"a\\nb\\x1b[31m" is not a parameter'),
    (f'"{"k" * 9999}": 1', 'kkk…" is not a parameter'),
    ('\n"ps": 0.1,\n"ps": 0.2', "params.json:3: ps is given twice, on lines 2 and 3"),
    ('"early_stopping": {"patience": 1,\n"patience": 2}', "early_stopping.patience is given twice, on lines 1"),
    ('"\\ud800": 1', "\\ud800 holds half a character"),
    # values
    ('"batch_size": "128"', 'batch_size is "128"; it must be a whole number from 1 to 1000000'),
    ('"batch_size": 128.5', "batch_size is 128.5; it must be a whole number"),
    ('"batch_size": 128.0', "batch_size is 128.0; it must be a whole number"),
    ('"batch_size": 0', "batch_size is 0; it must be a whole number from 1"),
    ('"num_epochs": true', "num_epochs is true; it must be a whole number"),
    ('"num_epochs": null', "num_epochs is null; it must be a whole number"),
    ('"num_epochs": 99999999999999999999999', "; it must be a whole number from 1 to 1000000"),
    (f'"seed": {"9" * 5001}', "seed is Infinity; it must be a finite number"),
    ('"bs_test": 0', "bs_test is 0; it must be a whole number from 1 to 1000000 or null"),
    ('"n_clas": 1', "n_clas is 1; it must be a whole number from 2 to 1000000 or null"),
    ('"im_sz": 7', "im_sz is 7; it must be a whole number from 8 to 1024"),
    ('"num_workers": 65', "num_workers is 65; it must be a whole number from 0 to 64"),
    ('"seed": -1', "seed is -1; it must be a whole number from 0 to 4294967295"),
    ('"cuda": "1"', 'cuda is "1"; it must be 0, 1, false or true'),
    ('"cuda": 2', "cuda is 2; it must be 0, 1, false or true"),
    ('"cuda": 1.0', "cuda is 1.0; it must be 0, 1, false or true"),
    ('"cuda": null', "cuda is null; it must be 0, 1, false or true"),
    ('"pretrain": 2', "pretrain is 2; it must be 0, 1, false, true or text of 1 to 500 characters"),
    ('"pretrain": "1"', 'pretrain is "1"; it must be 0 or 1 without quotes'),
    ('"pretrain": "False"', 'pretrain is "False"; it must be 0 or 1 without quotes'),
    ('"pretrain": ""', 'pretrain is ""; it must be'),
    ('"wd": NaN', "wd is NaN; it must be a finite number"),
    ('"wd": 1e999', "wd is Infinity; it must be a finite number"),
    ('"wd": -Infinity', "wd is -Infinity; it must be a finite number"),
    ('"optimizer_arguments": {"betas": [0.9, NaN]}', "optimizer_arguments.betas[1] is NaN"),
    ('"wd": -1', f"wd is -1; it must be {NUMBER}"),
    ('"wd": false', f"wd is false; it must be {NUMBER}"),
    ('"wd": "1e-4"', f'wd is "1e-4"; it must be {NUMBER}'),
    ('"ps": 1', "ps is 1; it must be a number at least 0 and below 1"),
    ('"div_factor": 1', "div_factor is 1; it must be a number above 1"),
    ('"pct_start": 0', "pct_start is 0; it must be a number above 0 and below 1"),
    ('"crop_fraction": 1.1', "crop_fraction is 1.1; it must be a number from 0.1 to 1"),
    ('"precision": "fp61"', '"auto", "fp32", "bf16" or "fp16"; did you mean "fp16"?'),
    ('"freeze": 1', 'freeze is 1; it must be "none", "body" or "gradual"'),
    ('"channels": true', "channels is true; it must be 1 or 3"),
    ('"channels": 2', "channels is 2; it must be 1 or 3"),
    ('"background": [255, 255]', "it must be a list of 3 (each a whole number from 0 to 255)"),
    ('"background": [0, 0, 256]', "background[2] is 256; it must be a whole number from 0 to 255"),
    ('"about": 5', "about is 5; it must be text, an object or null"),
    ('"optimizer_arguments": [1]', "optimizer_arguments is [1]; it must be an object"),
    # learning rates
    ('"learning_rate": 0', "learning_rate is 0; it must be above 0 somewhere"),
    ('"learning_rate": [0, 0]', "learning_rate is [0, 0]; it must be above 0 somewhere"),
    (
        '"learning_rate": -1',
        f"learning_rate is -1; it must be {NUMBER}, a list of 1 to 64 (each {NUMBER}) or an object (low, high)",
    ),
    ('"learning_rate": []', "learning_rate is []; it must be a number"),
    ('"learning_rate": [0.1,\n"x"]', f'params.json:2: learning_rate[1] is "x"; it must be {NUMBER}'),
    (f'"learning_rate": {[1] * 65}', "1, …; it must be a number"),
    ('"learning_rate": [1, 1],\n"layer_groups": 3', "params.json:2: layer_groups is 3; it must be 2, as"),
    ('"layer_groups": 0', "layer_groups is 0; it must be a whole number from 1 to 64"),
    ('"learning_rate": {"low": 2, "high": 1}', "; its low must be below its high"),
    ('"learning_rate": {"low": 0, "high": 1}', "learning_rate.low is 0; it must be a number above 0"),
    ('"learning_rate": {"low": 1}', "learning_rate.high is missing: learning rate of the head"),
    ('"learning_rate": {"low": 1, "high": 2,\n"hi": 2}', 'json:2: "learning_rate.hi" is not a parameter'),
    # what must agree
    ('"best_metric": "f1"', 'best_metric is "f1"; it must be "loss" or listed in metrics'),
    ('"best_metric": "acuracy"', '; did you mean "accuracy"?'),
    ('"metrics": ["f1"]', 'params.json: best_metric is "accuracy"; it must be "loss" or listed in'),
    ('"metrics": ["accuracy", "accuracy"]', "; it must name each one once"),
    ('"metrics": "accuracy"', 'metrics is "accuracy"; it must be a list of 0 to 100 (each text'),
    ('"metrics": ["accuracy", 5]', "metrics[1] is 5; it must be text"),
    ('"early_stopping": {"monitor_metric": "f1"}', '; its monitor_metric must be "loss" or listed in'),
    ('"early_stopping": {"minimize": 0}', "; its minimize must be 1 or null"),
    ('"early_stopping": {"patience": 0}', "early_stopping.patience is 0; it must be a whole number"),
    ('"early_stopping": {"patiance": 1}', '"early_stopping.patiance" is not a parameter; did you mean'),
    ('"early_stopping": {"x": 1}', "; choose from action, min_delta, minimize, monitor_metric"),
    (
        '"early_stopping": 3',
        "must be an object (patience, monitor_metric, min_delta, minimize, action, tail_epochs) or null",
    ),
    ('"normalize": "imagenet"', 'normalize is "imagenet"; it must be "auto" or an object (mean, std)'),
    ('"normalize": {"mean": [1, 1, 1]}', "normalize.std is missing: deviation of each"),
    ('"normalize": {"mean": [1], "std": [1]}', "its std must hold 3 numbers"),
    ('"normalize": {"mean": [1, 1, 1], "std": [1, 0, 1]}', "normalize.std[1] is 0; it must be a number"),
    ('"augment": [{"p": 1}]', 'augment[0] is {"p": 1}; it must hold a "name", and may hold arguments'),
    ('"augment": [{"name": ""}]', 'it must hold a "name"'),
    ('"augment": ["flip",\n5]', "params.json:2: augment[1] is 5; it must be text of 1 to 500 characters or"),
    # hyper_search
    ('"hyper_search": [1]', "hyper_search is [1]; it must be an object or null"),
    ('"ps": 0,\n"hyper_search": {"pss": [1]}', 'json:2: hyper_search: "pss" is not a parameter in this file; did'),
    ('"hyper_search": {"ps": [0]}', '"ps" is not a parameter in this file; give it a value outside'),
    ('"hyper_search": {"arch,wd": [0]}', '"wd" is not a parameter in this file; give it a value outside'),
    ('"hyper_search": {"hyper_search": [0]}', '"hyper_search" is not a parameter in this file'),
    (
        '"early_stopping": {}, "hyper_search": {"early_stopping.patience": [0]}',
        '"early_stopping.patience" is not a parameter in this file',
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"), BAD_FILES + [(f'{{"arch": "conv",{text}}}', expected) for text, expected in BAD_PARAMETERS]
)
def test_bad_files(file: Path, text: str | bytes, expected: str) -> None:
    (line,) = problems(file, text)
    assert expected in line
    assert line.startswith("params.json:")


def test_the_bad_files_are_many() -> None:
    assert len(BAD_FILES) + len(BAD_PARAMETERS) >= 60


def test_other_programs_names_are_known() -> None:
    properties = json_schema()["properties"]
    for theirs, ours in ELSEWHERE.items():
        first, _, second = ours.partition(".")
        assert theirs not in properties
        assert first in properties
        assert not second or second in EarlyStopping.model_fields
