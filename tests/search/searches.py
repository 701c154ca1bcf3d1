"""Small searches for tests."""

import json
from pathlib import Path
from typing import Any

from tests.training.runs import SMALL


def search_folder(path: Path, hyper_search: dict[str, Any], **changes: Any) -> Path:
    """A search's folder, or its params.json anew."""
    path.mkdir(parents=True, exist_ok=True)
    values = SMALL | {"num_epochs": 1, "ps": 0.5, "seed": 0} | changes | {"hyper_search": hyper_search}
    (path / "params.json").write_text(json.dumps(values))
    return path
