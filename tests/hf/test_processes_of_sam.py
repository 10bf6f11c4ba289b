"""Several processes with accumulated batches make SAM's updates of one process and one batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PROGRAM = Path(__file__).with_name("two_pass_processes.py")


@pytest.mark.slow
def test_two_processes_with_accumulation(tmp_path):
    def run(processes, accumulated):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(launcher if processes > 1 else []), str(PROGRAM), str(tmp_path)]
        done = subprocess.run([*command, str(processes), str(accumulated)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return load_file(tmp_path / f"{processes}.safetensors")

    one, two = run(1, 1), run(2, 2)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6, msg=name)
