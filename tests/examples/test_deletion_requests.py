"""The example obeys its queue in two parts, skips what came before, and ends in a chain that holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, out):
    environment = {**os.environ, "REMANENT_SECRET": str(out.parent / "secret")}
    command = [sys.executable, str(EXAMPLES / name), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_deletion_requests(tmp_path):
    printed = run("deletion_requests.py", tmp_path / "example")
    rows = re.findall(r"^(request-\S+): (\d+) steps(, redundant)?$", printed, re.MULTILINE)
    assert [name for name, _, _ in rows] == [*(f"request-{place}" for place in range(1, 6)), "request-1-again"]
    assert all(int(steps) == 6 for name, steps, _ in rows if name != "request-1-again")
    points = re.findall(r"^after (\d+): forget degree (\S+), retain utility (\S+)$", printed, re.MULTILINE)
    assert [int(done) for done, _, _ in points] == [2, 4, 6]
    assert all(0 <= float(value) <= 1 for point in points for value in point[1:])
    verdict = re.search(r"^chain of (\d+), good, verdict (.+)$", printed, re.MULTILINE)
    assert verdict is not None
    assert int(verdict[1]) == 3
