"""The highest memory that a piece of work takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory() -> Callable[[], int | None]:
    """Begin to watch; what is returned tells the peak since then, in bytes.

    On a GPU what its tensors took at most; else the highest resident memory of this process, its libraries included.
    Where the system does not set that mark back (Linux does), it is of the process's whole life; None where there is no
    such mark.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated
    try:
        _RESET.write_text("5")
    except OSError:
        return _of_the_whole_life
    return _resident


def _resident() -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _of_the_whole_life() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024
