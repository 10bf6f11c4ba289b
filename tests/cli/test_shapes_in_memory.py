"""What a process keeps of each shape of a batch that it met: as the program sets it, little."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from remanent.cli.main import SHAPES

# What is kept after a hundred shapes, of which the first is the largest, in bytes; what was freed is given back before.
_LEFT = """
import torch
from remanent.core.memory import give_back_freed
torch.set_num_threads(1)
layer = torch.nn.Linear(256, 8192, bias=False)

def resident():
    give_back_freed()
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


def left(*names: str) -> int:
    """Where the settings of these names are made."""
    there = {name: value for name, value in os.environ.items() if name not in SHAPES}
    there |= {name: SHAPES[name] for name in names}
    return int(subprocess.run([sys.executable, "-c", _LEFT], env=there, check=True, capture_output=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process")
def test_shapes_that_were_met_fill_little_memory_with_both_settings() -> None:
    without = left()
    if without < 64e6:
        pytest.skip("this machine computes in bfloat16 without a cache of shapes")
    both = left(*SHAPES)
    assert both < without / 2
    assert all(left(name) > both for name in SHAPES)


def test_the_program_makes_them_and_leaves_what_is_set() -> None:
    show = "import os, remanent.cli.main as m; m._remanent(); print(*(os.environ[name] for name in m.SHAPES))"
    first, second = SHAPES
    there = {name: value for name, value in os.environ.items() if name not in SHAPES} | {second: "512"}
    found = subprocess.run([sys.executable, "-c", show], env=there, check=True, capture_output=True, text=True)
    assert found.stdout.split() == [SHAPES[first], "512"]
