"""A stand-in for train.py, for tests of who is started when: no torch, a tenth of a second an epoch."""

import argparse
import time

from config.run_folder import RunFolder
from training.signals import Signals
from utils import BusyError, Interrupted, read_json, reports_errors

EPOCHS = 8


@reports_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data_dir")
    parser.add_argument("--model_dir")
    parser.add_argument("--set")
    folder = RunFolder(parser.parse_args(argv).model_dir)
    folder.lock()
    if folder.status().get("state") == "finished":
        raise BusyError("already finished")
    with Signals("stopped") as signals:
        checkpoint = folder.file("checkpoint.pt")
        done = read_json(checkpoint) if checkpoint.is_file() else []
        folder.set_state("running", reason=None)
        try:
            with signals.held():
                for epoch in range(len(done), EPOCHS):
                    time.sleep(0.1)
                    if signals.received:
                        break
                    done.append(epoch)
                    note(folder, "work.txt", f"epoch {epoch}")
                    folder.write_json("checkpoint.pt", done)
        except Interrupted:
            folder.set_state("stopped", reason="signal")
            raise
    folder.write_json("metrics_val_best_weights.json", {"accuracy": 0.5})
    folder.set_state("finished")
    note(folder, "work.txt", "finished")
    note(folder, "finished.txt", "once")
    return 0


def note(folder: RunFolder, name: str, line: str) -> None:
    """What happened, in order, whatever is killed."""
    with folder.file(name).open("a") as file:
        file.write(f"{line}\n")


if __name__ == "__main__":
    raise SystemExit(main())
