"""Memory that a run has freed."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest
import torch

from remanent.core import loop
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.unlearning import npo

# Every second piece is freed; the others keep the allocator from seeing one free stretch at its end.
_PROGRAM = """
import torch
from remanent.core.memory import give_back_freed

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

before = resident()
pieces = [torch.ones(30_000) for _ in range(2000)]
del pieces[::2]
held = resident() - before
give_back_freed()
print(held, resident() - before, all(bool((piece == 1).all()) for piece in pieces))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process")
def test_what_was_freed_goes_back_and_what_is_in_use_stays() -> None:
    found = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)
    held, left, whole = found.stdout.split()
    assert whole == "True"
    if int(held) < 180e6:
        pytest.skip("this allocator gives back by itself")
    assert int(left) < 0.65 * int(held)


def test_a_run_is_over_when_it_hands_back_what_it_freed(tiny_llama, make_records, monkeypatch) -> None:
    """Nothing waits for the garbage collector, which knows nothing of how large a tensor is."""
    made, alive = [], []

    class Watched(torch.optim.AdamW):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            made.append(weakref.ref(self))

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    monkeypatch.setattr(loop, "give_back_freed", lambda: alive.append(made[0]() is not None))
    data = {"forget": make_records(4, seed=1), "retain": make_records(4, seed=2)}
    gc.disable()
    try:
        run_episode(tiny_llama(), with_settings(npo.method(), steps=2), Episode("e", "erase", data), Settings(0))
    finally:
        gc.enable()
    assert (len(made), alive) == (1, [False])
