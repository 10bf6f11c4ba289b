"""Every example runs as a user runs it, and what it prints shows that it did its work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
LINE = re.compile(r"^(taught|unlearned) at (\S+): forget (\S+)  retain (\S+)  control (\S+)$", re.MULTILINE)


def run(name, *arguments):
    """What an example printed, and its table: (when, point) -> set -> NLL in nats."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    table = {
        (when, point): dict(zip(("forget", "retain", "control"), map(float, values), strict=True))
        for when, point, *values in LINE.findall(done.stdout)
    }
    return done.stdout, table


def check(table):
    assert set(table) == {(when, point) for when in ("taught", "unlearned") for point in ("full", "int4-row")}
    for point in ("full", "int4-row"):
        before, after = table["taught", point], table["unlearned", point]
        assert before["forget"] < 1, "the model was to know what it forgets"
        assert before["control"] > before["forget"] + 2
        assert after["forget"] > before["forget"] + 2
        assert after["retain"] < before["retain"] + 1
        assert after["forget"] > after["retain"] + 2


def test_own_loop():
    printed, table = run("own_loop.py")
    check(table)
    assert "step  30" in printed


def test_trainer(tmp_path):
    printed, table = run("trainer.py", "--out", tmp_path)
    check(table)
    made = re.search(r"made (\d+) updates; the weights are those of step (\d+)", printed)
    assert made is not None
    assert int(made[1]) < 60, "the rule was to stop it"
    assert int(made[1]) == int(made[2])
    for point in ("full", "int4-row"):
        unlearned = table["unlearned", point]
        assert unlearned["forget"] >= max(unlearned["control"], table["taught", point]["control"]) - 1e-3
    assert (tmp_path / "model.safetensors").is_file()


def test_every_example_is_run():
    tests = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    tested = {name for text in tests for name in re.findall(r'run\("(\w+\.py)"', text)}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested
