"""Peak memory, each figure from a process of its own: what others have freed before would hide what one takes."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Tensors are mapped one by one and given back when they are freed, so that resident memory is what is alive.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
Work = Callable[[], Any]


@dataclass(frozen=True)
class Peak:
    """What a process found.

    Args:
        memory: its highest resident memory while the work ran, in bytes: all of it, libraries and model included.
        found: what the work returned.
    """

    memory: int
    found: Any


def peak(job: str, **options: Any) -> Peak:
    """The peak of a fresh process, from when a job is prepared until its work is done.

    To know what something costs, take off the peak of a process that does everything else.

    Args:
        job: "module:function"; the function gets the options, prepares, and returns the work.
        options: plain data.
    """
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", job, json.dumps(options)],
        env=os.environ | _ALLOCATOR | _ONE_THREAD,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    if ran.returncode != 0:
        raise RuntimeError(f"{job} failed in its process:\n{ran.stderr}")
    memory, found = json.loads(ran.stdout.splitlines()[-1])
    return Peak(memory, found)


def _measure(work: Work) -> tuple[int, Any]:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark of what came before, such as loading a model
    now, highest = _resident("VmRSS"), _resident("VmHWM")
    if highest > now + (8 << 20):
        raise RuntimeError("this kernel does not set a process's high-water mark back")
    found = work()
    return _resident("VmHWM"), found


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    """The process: prepares the job, and prints the peak of its work and what it returned."""
    import torch

    torch.set_num_threads(1)
    module, name = sys.argv[1].split(":")
    work = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    print(json.dumps(_measure(work)))


if __name__ == "__main__":
    main()
