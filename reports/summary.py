"""What the experiment is: its parameters, its data, where its weights came from, and what it cost."""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from config.schema import Params
from reports.page import Html, Section, facts, picture, short, table, tag
from reports.subject import Subject
from training.curves import plot_history
from utils import printable, read_json

CHOSEN: Final = ("auto", None)  # defaults that leave a choice to the machine or the data


def section(subject: Subject) -> Section:
    """The part of the report."""
    curves = plot_history(dict(subject.history), printable(subject.folder.path.name))
    written = read_json(subject.folder.params)
    changed = list(changed_params(subject.params, written))
    params = table(["parameter", "value", "default"], changed, label="Parameters that differ from their defaults")
    body = (
        _tiles(subject),
        tag("h3", "Data"),
        facts(_data(subject)),
        tag("h3", "Weights and cost"),
        facts(_making(subject)),
        tag("h3", "Learning curves"),
        picture(curves, _told(subject.history), wide=True),
        tag("h3", "Parameters that differ from their defaults"),
        params,
    )
    return Section("summary", "Summary", Html("".join(body)), {"learning_curves.png": curves})


def changed_params(params: Params, written: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Name, value and default of each parameter that is not at its default, in the order of params.md.

    Args:
        params: in force.
        written: those in params.json. What was left for the machine or the data to choose is not shown.
    """
    for name, field in Params.model_fields.items():
        value, default = getattr(params, name), field.get_default(call_default_factory=True)
        if field.is_required():
            yield name, shown_value(value), "none"
        elif value != default and name != "about" and (name in written or default not in CHOSEN):
            yield name, shown_value(value), shown_value(default)


def shown_value(value: Any) -> str:
    """A parameter's value as params.json would hold it, shortened."""
    dumped = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
    dumped = int(dumped) if isinstance(dumped, bool) else dumped
    return short(dumped if isinstance(dumped, str) else json.dumps(dumped, ensure_ascii=False), 200)


def _tiles(subject: Subject) -> Html:
    """The few numbers that everybody asks for first."""
    shown = [name for name in ("accuracy", "top_5", "f1", "auroc", "loss") if name in subject.values]
    tiles = []
    for name in shown:
        low, high = subject.intervals[name]
        ends = f"{low:.4f} to {high:.4f}" if low == low else "no interval"
        tiles.append(tag("li", name, tag("strong", f"{subject.values[name]:.4f}"), tag("span", ends)))
    tiles.append(tag("li", "images", tag("strong", f"{len(subject.labels):,}"), tag("span", subject.question.split)))
    return tag("ul", *tiles, class_="tiles")


def _data(subject: Subject) -> Iterator[tuple[str, str]]:
    about: Mapping[str, Any] = subject.environment["data"]
    yield "folder", short(str(subject.data.root), 120)
    yield "classes", f"{len(subject.classes):,}{', several to an image' * subject.multi_label}"
    for split, count in about["images"].items():
        yield f"{split} images in training", f"{count:,}"
    yield f"{subject.question.split} images evaluated", f"{len(subject.labels):,}"
    if about["left_out"]:
        yield "left out in training as unreadable", f"{len(about['left_out']):,}"
    yield "fingerprint of train and valid", about["fingerprint"][:16]
    yield f"fingerprint of {subject.question.split}", subject.fingerprint[:16]
    yield "same files as in training", "yes" if subject.same_data else "no: train or valid differ"


def _making(subject: Subject) -> Iterator[tuple[str, str]]:
    environment, rows = subject.environment, subject.history["epochs"]
    weights = environment.get("weights")
    yield "net", f"{short(subject.params.arch)}, {sum(p.numel() for p in subject.net.parameters()):,} parameters"
    if weights is None:
        yield "started from", "random weights"
    else:
        yield "started from", short(f"{weights['source']}: {weights['file']}", 120)
        yield "licence of these weights", short(str(weights["licence"]))
        yield "sha256 of these weights", weights["sha256"][:16]
    yield "epochs", f"{len(rows)}, these weights are of epoch {subject.epoch}"
    yield "training time", _duration(sum(row["seconds"] for row in rows))
    yield "device", f"{environment['device']}, {environment['machine']['precision']}"
    yield "most memory in training", f"{max((row['memory_mb'] for row in rows), default=0):,.0f} MB"
    yield "seed", str(subject.params.seed)
    commit = environment.get("commit")
    if commit:
        yield "commit", f"{commit[:12]}{', with changes' * bool(environment.get('dirty'))}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _told(history: Mapping[str, Any]) -> str:
    """The learning curves in words."""
    rows = history["epochs"]
    if not rows:
        return "Learning curves without an epoch"
    losses = [row["valid"]["loss"] for row in (rows[0], rows[-1])]
    first, last = ("undefined" if loss is None else f"{loss:.4f}" for loss in losses)
    return f"Learning curves over {len(rows)} epochs; the validation loss goes from {first} to {last}"
