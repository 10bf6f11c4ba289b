"""Peak memory, each figure from a process of its own: what others have freed before would hide what one takes."""

from __future__ import annotations

import ctypes
import gc
import importlib
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

# One thread. Tensors are mapped one by one and given back when freed, so that resident memory is what is alive.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
_LIBRARIES = ["torch", "transformers.models.llama.modeling_llama", "remanent.core.loop", "remanent.optim"]
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


def peak(job: str, /, **options: Any) -> Peak:
    """The peak of a fresh process, from when a job is prepared until its work is done.

    To know what something costs, take off the peak of a process that does everything else.

    Args:
        job: "module:function"; the function gets the options, prepares, and returns the work.
        options: plain data.
    """
    with ProcessPoolExecutor(1, mp_context=_fresh()) as pool:
        return pool.submit(_measured, job, options).result()


@cache
def _fresh() -> BaseContext:
    """Processes forked from one that has loaded the libraries and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _measured(job: str, options: dict[str, Any]) -> Peak:
    import torch

    torch.set_num_threads(1)
    module, name = job.split(":")
    work: Work = getattr(importlib.import_module(module), name)(**options)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark of what came before, such as loading a model
    if _resident("VmHWM") > _resident("VmRSS") + (8 << 20):
        raise RuntimeError("this kernel does not set a process's high-water mark back")
    found = work()
    return Peak(_resident("VmHWM"), found)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
