from __future__ import annotations

import re

from .test_examples import run


def test_propose_designs():
    printed, _ = run("propose_designs.py", "--epochs", 20)
    known = float(re.search(r"known: best (\S+)", printed)[1])
    line = re.compile(r"(\w+): promised (\S+), gradient norm (\S+), true (\S+)")
    found = {name: tuple(map(float, numbers)) for name, *numbers in line.findall(printed)}
    assert set(found) == {"plain", "ignite"}
    assert all(true > known + 0.2 for _, _, true in found.values())
    assert found["ignite"][1] < found["plain"][1]
