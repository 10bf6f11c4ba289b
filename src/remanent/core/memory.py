"""Short of memory: an update is made again in smaller pieces, which need less of it and give the same result; and what
was freed is handed back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from remanent.errors import UnsupportedError

Result = TypeVar("Result")
_CPU = "not enough memory"  # as torch's allocator says it on Windows


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a device or on the CPU: smaller pieces may fit."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and (should_reduce_batch_size(error) or _CPU in str(error))


def in_pieces_that_fit(
    attempt: Callable[[int | None], Result],
    size: int | None,
    *,
    largest: int,
    again: Callable[[], None],
    warn: Callable[[str], None],
) -> tuple[Result, int | None]:
    """Call with a size; where memory runs out, again with half of it.

    Args:
        attempt: does the work in pieces of at most so many records; it must be able to start anew.
        size: to begin with; None is all at once.
        largest: records of the largest batch: what "all at once" comes to.
        again: called before each further attempt: puts back what the one before it used up, such as random numbers.
        warn: told, in a sentence, of each halving.

    Returns:
        The result, and the size that fitted.

    Raises:
        UnsupportedError: where one record at a time is still too much.
    """
    while True:
        try:
            return attempt(size), size
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            now = largest if size is None else min(size, largest)
            if now <= 1:
                raise UnsupportedError(
                    f"memory ran out with one record at a time ({' '.join(str(error).split())[:200]}); train a LoRA "
                    "(adapter lora or lora-nf4), cut records shorter (max_length), compute in bf16, select fewer "
                    "weights, or use a machine with more memory"
                ) from None
        # Past the handler, since its traceback holds the graph that filled the memory.
        size = now // 2
        clear_device_cache(garbage_collection=True)
        again()
        warn(f"memory ran out with {now} records at a time; going on with {size}, which gives the same result, slower")


def give_back_freed() -> None:
    """Hand freed memory back to the system where glibc, Linux's allocator, keeps it.

    It keeps what lies between pieces that are still in use: after some dozen runs in one process, several times what
    all of them need.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another allocator, or none that can be asked
        return
    trim(0)
