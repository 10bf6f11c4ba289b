from __future__ import annotations

import re

from .test_examples import run


def test_multi_task():
    printed, _ = run("multi_task.py", "--steps", 300)
    right = {name: float(value) for name, value in re.findall(r"^([\w-]+): ([\d.]+) % right$", printed, re.MULTILINE)}
    assert min(right["f-mtl"], right["samo"]) > right["alone"] + 1
