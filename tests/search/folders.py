"""Experiment folders as training leaves them, made up: the numbers are drawn, nothing is trained."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

FINGERPRINT = "78e6c510" * 8


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def experiment(
    path: Path,
    values: dict[str, Any] | None = None,
    quality: float = 0.9,
    seed: int = 0,
    epochs: int = 5,
    state: str = "finished",
    *,
    searched: bool = True,
    images: int = 0,
    fingerprint: str = FINGERPRINT,
    minutes: int = 0,
    **fields: Any,
) -> Path:
    """One folder; its accuracy rises to about `quality`, of which the seed and the values decide the rest.

    Args:
        values: parameters that differ from the base; in search.json too when `searched`.
        images: writes predictions_valid.npz of so many images, with the accuracy of the best epoch.
        minutes: when it was started, after midnight.
        fields: more of status.json.
    """
    path.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([seed, *json.dumps(values).encode()])
    params = {"arch": "conv", "num_epochs": epochs, "learning_rate": 0.001, **(values or {}), "seed": seed}
    write(path / "params.json", params)
    if searched:
        write(path / "search.json", {"values": values or {}, "seed": seed})
    started = f"2026-11-21T{minutes // 60:02}:{minutes % 60:02}:00+00:00"
    ended = f"2026-11-21T{(minutes + 9) // 60:02}:{(minutes + 9) % 60:02}:00+00:00"
    write(path / "status.json", {"state": state, "started": started, "updated": ended, "pid": 1, "host": "h"} | fields)
    if state == "queued":
        return path
    resolved = {"layer_groups": 3, "bs_test": 64, "threads": 1, "precision": "fp32", "best_metric": "accuracy"}
    write(path / "params_resolved.json", params | resolved)
    data = {"folder": "data/made up", "fingerprint": fingerprint, "images": {"train": 100, "valid": 50}}
    write(path / "environment.json", {"device": "cpu", "data": data, "seed": seed})
    (path / "net_summary.txt").write_text("layers\n\n2,236,682 parameters, 12,810 of them trainable\n")
    rows: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        accuracy = float(np.clip(quality - math.exp(-epoch) + random.normal(0, 0.004), 0, 1))
        if images:
            accuracy = round(accuracy * images) / images
        row = {"loss": 1 - accuracy + 0.1, "accuracy": accuracy}
        better = {"loss": 1 - accuracy, "accuracy": min(1.0, accuracy + 0.02)}
        rows.append({"epoch": epoch, "train": better, "valid": row, "learning_rate": [0.001] * 3, "seconds": 60.0,
                     "images_per_second": 10.0, "memory_mb": 900.5 + epoch})  # fmt: skip
    write(path / "history.json", {"epochs": rows, "steps": [], "stop": None})
    (path / "weights_best.safetensors").write_bytes(b"made up")
    if images and rows:
        right = round(max(row["valid"]["accuracy"] for row in rows) * images)
        labels = np.arange(images) % 3
        logits = np.eye(3)[(labels + (random.permutation(images) >= right)) % 3].astype(np.float32)
        paths = [f"valid/{i}.png" for i in range(images)]
        np.savez(path / "predictions_valid.npz", logits=logits, labels=labels, paths=paths, classes=["a", "b", "c"])
    return path


def grid(parent: Path, seeds: int = 3, **options: Any) -> Path:
    """A search over two parameters, three values of one and two of the other, on a log scale and a linear one."""
    parent.mkdir(parents=True, exist_ok=True)
    write(parent / "params.json", {"arch": "conv", "hyper_search": {"learning_rate": [0.0001, 0.001, 0.01]}})
    minutes = 0
    for rate, loss in ((0.0001, 0.1), (0.001, 0.0), (0.01, 0.03)):
        for ps in (0.25, 0.5):
            for seed in range(seeds):
                name = f"learning_rate_{rate}-ps_{ps}" + (f"-seed_{seed}" if seed else "")
                values = {"learning_rate": rate, "ps": ps}
                experiment(parent / name, values, 0.9 - loss - ps / 50, seed, minutes=minutes, **options)
                minutes += 10
    return parent
