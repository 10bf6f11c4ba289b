from __future__ import annotations

import re

from .test_examples import run


def test_multi_task():
    printed, _ = run("multi_task.py", "--steps", 300)
    right = {name: float(value) for name, value in re.findall(r"^([\w-]+): ([\d.]+) % right$", printed, re.MULTILINE)}
    assert list(right) == ["alone", "f-mtl", "samo"]
    assert min(right.values()) > 75
    assert len(set(right.values())) == 3
