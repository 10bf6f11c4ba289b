"""What a process keeps of each shape of a batch that it met: with the library imported, little."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
# What is kept after a hundred shapes, of which the first is the largest, in bytes; what was freed is given back before.
_LEFT = """
import ctypes, torch
import {module}
torch.set_num_threads(1)
give_back = ctypes.CDLL("libc.so.6").malloc_trim
layer = torch.nn.Linear(256, 8192, bias=False)

def resident():
    give_back(0)
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def step(tokens):
    states = torch.randn(tokens, 256, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        layer(states).sum().backward()
    layer.weight.grad = None

step(600)
before = resident()
for tokens in range(100, 500, 4):
    step(tokens)
print(resident() - before)
"""


def left(module: str, **given: str) -> int:
    there = {name: value for name, value in os.environ.items() if name not in CACHES} | given
    program = [sys.executable, "-c", _LEFT.format(module=module)]
    return int(subprocess.run(program, env=there, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process")
def test_shapes_that_were_met_fill_no_memory_and_who_asks_for_more_gets_it() -> None:
    without = left("json")
    if without < 64e6:
        pytest.skip("this machine computes in bfloat16 without a cache of shapes")
    assert left("remanent") < without / 2
    assert left("remanent", **dict.fromkeys(CACHES, "1024")) > without / 2
