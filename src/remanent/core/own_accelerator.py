"""An accelerator of a run's own, whatever the process asked accelerate for before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState


@contextmanager
def own_accelerator(device: torch.device, loss_scaling: bool) -> Iterator[Accelerator]:
    """Inside the block accelerate knows of this accelerator only; afterwards its state is what it was.

    accelerate keeps device and precision for the whole process, and those of its first accelerator: another is refused,
    or gets them without a word. Processes of torch.distributed that run already stay as they are.

    Args:
        device: of the model.
        loss_scaling: whether it scales losses, as float16 on a GPU needs.
    """
    # In place: the accelerators that a program holds are views of these.
    states = (PartialState._shared_state, AcceleratorState._shared_state, GradientState._shared_state)
    before = [dict(state) for state in states]
    for state in states:
        state.clear()
    try:
        yield Accelerator(mixed_precision="fp16" if loss_scaling else "no", cpu=device.type != "cuda")
    finally:
        for state, kept in zip(states, before, strict=True):
            state.clear()
            state.update(kept)
