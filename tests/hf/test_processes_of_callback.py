"""A callback's rule in several processes: the evaluations, the stop and the best step's weights of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PROGRAM = Path(__file__).with_name("callback_processes.py")
RESUMED = {
    "resumed before the best": "to the end",
    "resumed after the best": "to the end",
    "resumed before it stopped": "stopped",
}


@pytest.mark.slow
def test_two_processes_decide_as_one_and_keep_its_weights(taught, data, tmp_path):
    taught.save_pretrained(tmp_path / "taught")
    plain = {role: [(item.input_ids, item.labels, item.key) for item in records] for role, records in data.items()}
    (tmp_path / "data.json").write_text(json.dumps(plain))

    def run(count):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
        command = [sys.executable, *launcher, str(PROGRAM), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads((tmp_path / f"{count}-{rank}.json").read_text()) for rank in range(count)]

    (alone,), (first, second) = run(1), run(2)
    assert second == first  # weights by their digest
    assert set(first) == set(alone)
    for name, one in alone.items():
        two = first[name]
        assert (two["steps"], two["best_step"]) == (one["steps"], one["best_step"]), name
        for mine, other in zip(two["evaluations"], one["evaluations"], strict=True):
            assert (mine["step"], mine["reached"]) == (other["step"], other["reached"]), name
            assert mine["score"] == pytest.approx(other["score"], abs=1e-3), name
    for name in ("end", "stopped", "plain"):
        several, expected = (load_file(tmp_path / f"{name}-{count}.safetensors") for count in (2, 1))
        for key, tensor in expected.items():
            torch.testing.assert_close(several[key], tensor, rtol=0, atol=1e-4, msg=f"{name}: {key}")
    for found in (alone, first):
        for name, whole in RESUMED.items():
            assert found[name] == found[whole], name
        again, stopped = found["resumed where it stopped"], found["stopped"]
        assert again["steps"] <= stopped["steps"] + 1  # Trainer makes an update before it asks
        assert {**again, "steps": stopped["steps"]} == stopped
        assert stopped["best_step"] == stopped["steps"] < 40
        for name in ("to the end", "plain Trainer"):
            run = found[name]
            (best,) = [item for item in run["evaluations"] if item["step"] == run["best_step"]]
            assert 0 < run["best_step"] < run["steps"], name
            assert run["known"] == best["nll"], name
