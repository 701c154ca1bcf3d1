"""What the tests of params.json share: the source template's file, catalogues, ways to load and to fail."""

from pathlib import Path
from typing import Any

import pytest

from config.load import load_params
from config.schema import Params
from utils import UserError

TEMPLATE = """{"arch":"resnet18","pretrain":1,"n_clas":9,"im_sz":224,"batch_size":128,"bs_test":16,
"learning_rate":[0.002,0.002,0.002],"wd":0.0001,"ps":0.5,"num_epochs":10,"num_workers":4,"cuda":1,
"scheduler":"one_cycle","div_factor":25,"pct_start":0.3,"save_summary_steps":1,
"early_stopping":{"patience":10,"monitor_metric":"loss","min_delta":0.01,"minimize":1},"hyper_search":{"ps":[0.5,0.75]}}"""

CATALOGUES = {
    "arch": {"resnet18": None, "resnet50": None, "mobilenet_v2": None},
    "optimizer": {"AdamW": frozenset({"betas", "eps"}), "SGD": frozenset({"momentum", "nesterov"})},
    "scheduler": {"one_cycle": frozenset[str](), "StepLR": frozenset({"step_size", "gamma"})},
    "loss": {"cross_entropy": frozenset({"label_smoothing", "class_weights"}), "focal": frozenset({"gamma"})},
    "metrics": {"accuracy": None, "f1": None, "top_3": None},
    "augment": {
        "random_resized_crop": frozenset({"scale"}),
        "horizontal_flip": frozenset({"p"}),
        "v2.GaussianBlur": None,
    },
}


def load(file: Path, text: str | bytes, *overrides: str, catalogues: Any = None) -> Params:
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return load_params(file, overrides, catalogues)


def problems(file: Path, text: str | bytes, *overrides: str, catalogues: Any = None) -> list[str]:
    """The lines of the error, without the folder."""
    with pytest.raises(UserError) as caught:
        load(file, text, *overrides, catalogues=catalogues)
    lines = str(caught.value).split("\n")
    assert all(line.startswith((str(file), "--set ")) or line == "… and more" for line in lines), lines
    assert all(line.isprintable() and len(line) < 500 for line in lines), lines
    return [line.removeprefix(f"{file.parent}/") for line in lines]
