from __future__ import annotations

import re

from .test_examples import run


def test_sam():
    printed, _ = run("sam.py", "--epochs", 40)
    right = {name: float(value) for name, value in re.findall(r"^(\w+): ([\d.]+) % right$", printed, re.MULTILINE)}
    assert right["sam"] > right["sgd"] + 5
