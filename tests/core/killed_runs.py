"""Kill a run with SIGKILL at random moments, start it again each time, and compare how it ends with one left alone.

Arguments: an empty folder, the number of kills, a seed. Prints one line of JSON. A process of its own, whose children
are forked, so that torch is imported once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from resumable_run import STEPS, run


def start(folder, result):
    child = os.fork()
    if child == 0:
        try:
            result.write_text(run(folder), encoding="utf-8")
        finally:
            os._exit(0)
    return child


def main(folder, kills, seed):
    began = time.monotonic()
    expected = run(folder / "alone")
    duration = time.monotonic() - began
    began = time.monotonic()
    again = run(folder / "again")
    duration = min(duration, time.monotonic() - began)
    moments = random.Random(seed)
    ends, killed, attempt, steps = [], 0, 0, []
    while killed < kills or not ends:
        place, result = folder / f"run{len(ends)}", folder / f"result{attempt}"
        attempt += 1
        child = start(place, result)
        if killed < kills:
            time.sleep(moments.uniform(0, 0.4 * duration))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
            saved = sorted((place / "checkpoints").glob("step-*"))
            steps.append(int(saved[-1].name[5:]) if saved else 0)
        elif result.is_file():
            ends.append(result.read_text(encoding="utf-8"))
        else:
            ends.append("failed")
    print(json.dumps({"alone": [expected, again], "killed": killed, "ends": ends, "steps": steps, "of": STEPS}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
