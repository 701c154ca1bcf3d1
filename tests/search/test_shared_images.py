"""The trials of a search decode the images once."""

import pytest

from search.engine import arguments
from search.plan import make_plan
from tests.search.searches import search_folder


@pytest.mark.parametrize(("cache", "asked"), [("auto", True), ("memory", False), ("none", False), ("disk", False)])
def test_images_are_kept_on_disk_unless_the_search_says_otherwise(tmp_path, cache, asked):
    changes = {"cache": cache}
    [trial] = make_plan(search_folder(tmp_path / "x", {"learning_rate": [0.1]}, **changes)).trials
    found = arguments(trial, tmp_path)
    assert found[:4] == ["--data_dir", str(tmp_path), "--model_dir", str(trial.path)]
    assert found[4:] == ["--set", "cache=disk"] * asked
