"""A disk that is full, without a disk of our own: files may not grow past a size, or flushing them fails."""

from __future__ import annotations

import contextlib
import resource


@contextlib.contextmanager
def room_for(size):
    """Inside, a write past `size` bytes of any file fails, in Python and in the libraries below it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
