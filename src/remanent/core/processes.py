"""Work that several processes with the same model share out, each result of which comes to all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def process() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) where torch.distributed does not run."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def added_up(values: Tensor) -> Tensor:
    """The sum over all processes, each of which must call this; the same bits in every one."""
    if process()[1] > 1:
        distributed.all_reduce(values)
    return values


def everywhere(flag: bool, device: torch.device) -> bool:
    """Whether something holds in every process, each of which must call this."""
    world = process()[1]
    return int(added_up(torch.tensor(int(flag), device=device))) == world


def agreed(value: Any) -> Any:
    """The first process's value, in every process, each of which must call this. Plain data only."""
    if process()[1] == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]
