"""The example shows what it says: plain fine-tuning loses what the model knew, EWC keeps it and learns too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
LINE = re.compile(r"^(before|plain|EWC): first (\S+)  second (\S+)  text (\S+)$", re.MULTILINE)


def run(name, *arguments):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_keep_what_it_knew(tmp_path):
    found = {
        when: [*map(float, values)] for when, *values in LINE.findall(run("keep_what_it_knew.py", "--out", tmp_path))
    }
    (first, second, text), plain, kept = found["before"], found["plain"], found["EWC"]
    assert plain[0] > first + 1
    assert kept[0] < first + 0.3 * (plain[0] - first)
    assert text < kept[2] < plain[2], "what nothing holds is lost less, too"
    assert kept[1] < second - 0.8 * (second - plain[1]), "it learned the new records"
