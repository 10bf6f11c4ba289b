from __future__ import annotations

import re

from .test_examples import run


def test_upsample():
    printed, _ = run("upsample.py")
    repeated, records, among, without = map(int, re.findall(r"\d+", printed.splitlines()[0]))
    assert repeated < 0.3 * records
    assert among > 0.9 * without
    right = {name: float(value) for name, value in re.findall(r"^(\w+): ([\d.]+) % right$", printed, re.MULTILINE)}
    assert set(right) == {"plain", "useful"}
