"""Kill a run with SIGKILL at random points of training and saving, look at what it left, and start it again.

Arguments: an empty folder, the number of kills, a seed. Prints one line of JSON. Every other kill comes from outside
after a random time; the others come from inside, before a random one of the run's operations on files: with those, no
moment of a rename or a removal is too short to be hit. The children are forked, so that torch is imported once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

import torch
from resumable_run import run

from remanent.core.checkpoint import load_checkpoint, steps_saved
from remanent.core.digest import weights_digest
from remanent.data.record import Message, Record
from remanent.models.load import load
from remanent.models.save import save
from remanent.models.tiny import tiny

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "fsync"}


class Job:
    """A run, and then a model that is saved twice, the second time over the first."""

    def __init__(self):
        self.loaded = tiny([Record("a", "a", (Message("user", "Who?"),), "Ada.")], hidden=32, layers=1, vocabulary=261)
        self.norm = self.loaded.model.model.norm.weight.detach()
        self.digests = {self._turn(value) for value in (1.0, 2.0)}

    def _turn(self, value):
        self.norm.fill_(value)
        return weights_digest(self.loaded.model)

    def to_end(self, place):
        warnings = []
        digest = run(place, on_warning=warnings.append)
        for value in (1.0, 2.0):
            self._turn(value)
            save(self.loaded.model, self.loaded.tokenizer, place / "model")
        return {"digest": digest, "warnings": warnings}

    def unreadable(self, place):
        """What cannot be read of the files that a killed run left, in words."""
        found = []
        try:
            for _, folder in steps_saved(place / "checkpoints"):
                load_checkpoint(folder)
            metrics = place / "metrics.jsonl"
            for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []:
                json.loads(line)
            if (place / "model").exists() and weights_digest(load(place / "model").model) not in self.digests:
                found.append("the model is neither the first nor the second")
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
        return found


def watch(place, at):
    """Count the operations on files under a folder; at the given one, the process is killed before it happens."""
    counted = [0]

    def one():
        counted[0] += 1
        if counted[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, arguments):
        if event in CHANGES or (event == "open" and str(place) in str(arguments[0])):
            one()

    flush = os.fsync

    def fsync(descriptor):
        one()
        flush(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)
    return counted


def start(job, place, result, at):
    child = os.fork()
    if child == 0:
        try:
            counted = watch(place, at)
            found = job.to_end(place)
            result.write_text(json.dumps(found | {"operations": counted[0]}), encoding="utf-8")
        except BaseException as error:
            result.write_text(json.dumps({"failed": f"{type(error).__name__}: {error}"}), encoding="utf-8")
        finally:
            os._exit(0)
    return child


def main(folder, kills, seed):
    torch.set_num_threads(1)
    job = Job()
    result = folder / "result.json"
    began = time.monotonic()
    os.waitpid(start(job, folder / "alone", result, 0), 0)
    duration = time.monotonic() - began
    alone = json.loads(result.read_text(encoding="utf-8"))
    chance = random.Random(seed)
    ends, unreadable, killed, outside = [], [], 0, 0
    while killed < kills or not ends:
        place = folder / f"run{len(ends)}"
        result.unlink(missing_ok=True)
        within = killed < kills and killed % 2 == 0
        child = start(job, place, result, chance.randint(1, alone["operations"] // 2) if within else 0)
        if killed < kills and not within:
            time.sleep(chance.uniform(0, 0.5 * duration))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
            outside += not within
            unreadable += [f"{place.name}: {text}" for text in job.unreadable(place)]
        else:
            ends.append(json.loads(result.read_text(encoding="utf-8")))
    print(json.dumps({"alone": alone, "ends": ends, "killed": killed, "outside": outside, "unreadable": unreadable}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
