"""One training run in one experiment folder: what must be there before `fit`, and what is left after it."""

import contextlib
import copy
import hashlib
import json
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

import torch

from config import run_folder
from config.parts import Normalization
from config.run_folder import RunFolder
from config.schema import FREE_KEYS, Params
from images.folder import DataFolder, check_headers, fingerprint, scan
from images.read_ahead import Reading
from model import weights_file
from model.metric import accuracy
from training import checkpoint, environment
from training.averaging import recompute_batch_norm
from training.build import Built, build
from training.checkpoint import Progress
from training.description import describe, pack, unpack
from training.loop import fit, measure, validate
from training.machine import choose_machine
from training.monitor_plots import Pictures
from training.processes import Processes
from training.recorder import Learns, Recorder, Witness
from training.signals import Signals
from training.threads import Watch
from training.trackers import Trackers
from utils import TEMPORARY_PREFIX, BusyError, Interrupted, TrainingFault, UserError, log, logging_to, printable

NEUTRAL: Final = FREE_KEYS | {"cuda", "hyper_search", "search"}  # may differ when a run is continued


def run(
    folder: RunFolder,
    reading: Reading,
    params: Params,
    processes: Processes,
    watch: Watch,
    *,
    exact: bool = False,
    overwrite: bool = False,
) -> str:
    """Trains one experiment, or continues it.

    Args:
        folder: the experiment folder; locked for this process while it runs.
        reading: of data/<name> with train/ and valid/.
        params: checked parameters.
        processes: that train it together.
        watch: has been looking at the cores since the program started.
        exact: refuse to continue when this machine would compute other bits than before.
        overwrite: move the results of an earlier run aside and start anew.

    Returns:
        The state the folder was left in: finished, stopped or pruned.

    Raises:
        UserError: bad data, or parameters that do not fit it. BusyError: the folder is in use, or finished.
        TrainingFault: training cannot go on. Interrupted: by a signal; the same call continues.
    """
    folder.lock()
    try:
        with processes.in_turn():
            if overwrite:
                aside = folder.move_results_aside()
            else:
                _leave_finished_alone(folder)
            folder.sweep(TEMPORARY_PREFIX)
        signals = Signals(f"{folder}: stopped; the same command goes on", insistent=processes.count == 1)
        with signals, logging_to(folder.file(run_folder.LOG)), _truthful_state(folder), processes.failing_together():
            if overwrite and aside is not None:
                log.info("the earlier results are in %s", aside)
            return _run(folder, reading, params, processes, watch, exact, signals)
    finally:
        folder.unlock()


def _leave_finished_alone(folder: RunFolder) -> None:
    """A finished run is gone through again only to write anew, from its checkpoint, files that are damaged.

    Raises:
        BusyError: it is whole, or cannot be mended.
    """
    try:
        state = folder.status().get("state")
    except UserError:
        return  # where the run stands is for the checkpoint to tell
    if state != "finished":
        return
    sources = [name for name in folder.digests() if name.startswith(run_folder.CODE)]
    damaged = [name for name in (*run_folder.TRAINED, *sources) if not folder.intact(name)]
    if not damaged or not checkpoint.exists(folder):
        but = f", but without a checkpoint to mend {', '.join(damaged[:3])} from" if damaged else ""
        raise BusyError(f"{folder}: already finished{but}; --overwrite trains again and keeps these results aside")


@contextlib.contextmanager
def _truthful_state(folder: RunFolder) -> Iterator[None]:
    """Writes into status.json and the log how a run ended, whatever ended it."""
    try:
        folder.set_state("running", **environment.process(), reason=None, message=None)
        yield
    except (Interrupted, KeyboardInterrupt) as error:
        folder.set_state("stopped", reason="signal", message=str(error))
        raise
    except UserError as error:
        _leave(folder, "invalid", str(error))
        raise
    except TrainingFault as error:
        _leave(folder, error.reason, str(error))
        raise
    except torch.OutOfMemoryError as error:
        message = "the GPU's memory does not hold a batch: halve batch_size and double gradient_accumulation"
        _leave(folder, "oom", message)
        raise TrainingFault(f"{folder}: {message}", "oom") from error
    except Exception as error:
        last = f"{type(error).__name__}: {error}".splitlines()[0]
        _leave(folder, "error", last, traceback.format_exc())
        raise TrainingFault(f"{folder}: {last} (the traceback is in {run_folder.LOG})") from error


def _leave(folder: RunFolder, reason: str, message: str, details: str = "") -> None:
    log.error("failed (%s): %s\n%s", reason, message, details, extra={"file_only": True})
    with contextlib.suppress(TrainingFault):  # a full disk must not hide why the run failed
        folder.set_state("failed", reason=reason, message=message)


def open_data(reading: Reading, params: Params) -> tuple[DataFolder, dict[str, str]]:
    """Looks through the data folder, and says what it found.

    Returns:
        The images to train and validate on; those that skip_bad left out, and why.

    Raises:
        UserError: naming what is wrong with the data.
    """
    found = scan(reading.root)
    memory = reading.memory(sum(len(split.paths) for split in found.splits.values()))
    data, skipped = check_headers(found, params.max_megapixels, params.skip_bad, memory)
    for line in (*data.notes, *(f"left out: {printable(path)}: {reason}" for path, reason in skipped)):
        log.info("%s", line)
    if skipped:
        log.warning(
            "%s: %d images have no readable header and are left out", printable(str(reading.root)), len(skipped)
        )
    return data, dict(skipped)


def _run(
    folder: RunFolder,
    reading: Reading,
    params: Params,
    processes: Processes,
    watch: Watch,
    exact: bool,
    signals: Signals,
) -> str:
    trackers = Trackers(params.trackers if processes.first else [], folder)
    saved = checkpoint.load(folder)
    before = saved["origin"] if saved else None
    with processes.in_turn():  # it remembers what it has read
        data, skipped = open_data(reading, params)
    machine = choose_machine(params, before["machine"] if before else None, exact, processes.count, watch)
    data_fingerprint = fingerprint(data)
    origin: dict[str, Any] = {
        "params": params.model_dump(mode="json"),
        "classes": list(data.classes),
        "images": {name: len(split.paths) for name, split in data.splits.items()},
        "fingerprint": data_fingerprint,
        "net": _own_net(folder) if params.arch == run_folder.NET else None,
        "machine": asdict(machine),
    }
    continued_at = {name: saved["progress"][name] for name in ("epoch", "step")} if saved else {}
    alike = asdict(machine) | {"threads": None, "processor": None}  # these are each one's own affair
    processes.check_alike(origin | continued_at | {"machine": alike})
    if before is not None:
        _refuse_changes(folder, before, origin)
    elif folder.file(run_folder.HISTORY).is_file():
        raise UserError(f"{folder}: holds results but no checkpoint; --overwrite trains anew and keeps them aside")
    if before is None:
        built = build(params, folder, data, machine, processes)
        files = describe(folder, params, data, skipped, data_fingerprint, built, machine, processes)
        origin["files"] = pack(files)
    else:
        files, origin["files"] = unpack(before["files"]), before["files"]
        normalize = Normalization.model_validate(json.loads(files[run_folder.PARAMS_RESOLVED])["normalize"])
        built = build(params, folder, data, machine, processes, normalize)
    folder.write_all({name: content for name, content in files.items() if not folder.intact(name)})
    return _train(folder, built, origin, saved, signals, trackers)


def _train(
    folder: RunFolder,
    built: Built,
    origin: dict[str, Any],
    saved: dict[str, Any] | None,
    signals: Signals,
    trackers: Trackers,
) -> str:
    parts = built.parts
    state = Progress()
    # What the monitor has found is kept while it is off.
    watched = built.params.monitor or (saved and "monitor" in saved["learning"])
    candidates: dict[str, Learns | None] = {
        "net": parts.net,
        "optimizer": parts.optimizer,
        "schedule": parts.schedule,
        "scaler": parts.scaler,
        "ema": parts.ema,
        "last_epochs": parts.last_epochs,
        "stopping": parts.stopping,
        "monitor": parts.monitor if watched else None,
    }
    learning = {name: part for name, part in candidates.items() if part is not None}
    kind = Recorder if parts.processes.first else Witness
    minutes = built.params.checkpoint_minutes
    recorder = kind(folder, learning, origin, parts.valid.split, signals, minutes, parts.processes)
    pictures = Pictures(parts.monitor, folder)
    recorder.followers += [pictures.follow, trackers.follow]
    if saved is not None:
        learned = saved["learning"]
        learned.setdefault("monitor", parts.monitor.state_dict())  # it may be switched on later
        learned["scaler"] = learned["scaler"] or parts.scaler.state_dict()  # in another precision there was none
        recorder.restore(saved, state)
        log.info("continuing after epoch %d, step %d", state.epoch, state.step)
        recorder.publish(state)
    with trackers.session(state), signals.held():  # it stops between two steps, after saving
        try:
            ended = fit(parts, state, recorder)
        except TrainingFault as error:
            if signals.received is None:
                raise
            # Most often the signal went to the loader workers too, and the loop met a dead one before it looked.
            log.warning("%s", error)
            raise Interrupted(signals.received, f"{folder}: stopped; the same command goes on") from None
    recorder.draw(state)
    pictures.draw()
    if ended == "finished":
        _finish(built, state, recorder)
    trackers.end(state, ended)
    if ended == "finished" and built.params.overfit:
        _judge_overfitting(folder, state, parts.processes)
    folder.set_state(ended, epoch=state.epoch, seconds=round(state.seconds, 1))
    if state.best is not None:
        log.info("%s: %s, best %s in epoch %d: %.4f", folder, ended, parts.best_metric, state.best["epoch"],
                 state.best["metrics"][parts.best_metric])  # fmt: skip
    return ended


def _judge_overfitting(folder: RunFolder, state: Progress, processes: Processes) -> None:
    """A net, loss and rates that can learn at all learn a few images by heart; anything else is a fault to find.

    Raises:
        TrainingFault: not every image was learnt.
    """
    if state.best is None:
        return
    logits, labels = (state.best[name].numpy() for name in ("logits", "labels"))
    learnt = processes.from_first(lambda: accuracy(logits, labels))
    if learnt < 1:
        raise TrainingFault(
            f"{folder}: overfit: only {learnt:.1%} of {len(labels)} images were learnt by heart; raise num_epochs "
            "or learning_rate, and if that does not help look for a fault in the labels, the net or the loss"
        )
    log.info("overfit: all %d images were learnt by heart", len(labels))


def _finish(built: Built, state: Progress, recorder: Recorder) -> None:
    """Keeps the final epoch's weights, and the mean of the last epochs', each with its own metrics."""
    parts = built.parts
    row = state.history["epochs"][-1]
    recorder.keep_weights("last", parts.evaluated.state_dict(), state.epoch, row["valid"])
    parts.prepare_net(state.epoch - 1)
    net = copy.deepcopy(parts.net)
    weights_file.load(net, parts.last_epochs.mean())
    if len(parts.last_epochs.epochs) > 1:  # one epoch's weights have their own statistics
        with parts.autocast():
            recompute_batch_norm(net, parts.processes.fed(net, parts.train.batches(state.epoch)))
    recorder.keep_weights("averaged", net.state_dict(), state.epoch, measure(parts, validate(parts, net)))


def _own_net(folder: RunFolder) -> str | None:
    path = folder.file(run_folder.NET)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _refuse_changes(folder: RunFolder, before: dict[str, Any], origin: dict[str, Any]) -> None:
    """A run is continued only as what it was started as."""
    old, new = before["params"], origin["params"]
    changed = [
        f"{key}: {old.get(key)} -> {new.get(key)}" for key in new if key not in NEUTRAL and old.get(key) != new.get(key)
    ]
    if before["net"] != origin["net"]:
        changed.append(f"{run_folder.NET} is not what {run_folder.CODE}/{run_folder.NET} keeps of it")
    if before["classes"] != origin["classes"]:
        changed.append(f"classes: {', '.join(before['classes'])} -> {', '.join(origin['classes'])}")
    elif before["images"] != origin["images"]:
        counts = [(split, count, origin["images"][split]) for split, count in before["images"].items()]
        changed.append("images: " + ", ".join(f"{split} {was} -> {now}" for split, was, now in counts if was != now))
    elif before["fingerprint"] != origin["fingerprint"]:
        changed.append("images: as many as before, but not the same names and contents")
    if changed:
        raise UserError(
            f"{folder}: cannot be continued, for these changed since it was started: {printable('; '.join(changed))}; "
            "undo the change, or use --overwrite to train anew and keep the earlier results aside"
        )
