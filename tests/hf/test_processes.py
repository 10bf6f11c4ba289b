"""Several processes make the updates that one makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PROGRAM = Path(__file__).with_name("two_processes.py")


def run(folder, out, processes, accumulated, saved=0):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    arguments = [str(item) for item in (folder, out, processes, accumulated, saved)]
    subprocess.run([sys.executable, *launcher, str(PROGRAM), *arguments], check=True, capture_output=True, timeout=300)
    return load_file(out / f"{processes}-{saved}.safetensors")


@pytest.mark.slow
def test_two_processes_with_accumulation_and_resume(model, tmp_path):
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    one = run(folder, tmp_path, processes=1, accumulated=1)
    two = run(folder, tmp_path, processes=2, accumulated=2)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-4, msg=name)
    resumed = run(folder, tmp_path, processes=2, accumulated=2, saved=4)  # inside the second pass
    for name, tensor in two.items():
        assert torch.equal(resumed[name], tensor), name
