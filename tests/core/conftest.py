from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file


def launched(script, count, *arguments):
    """Run a script in several processes on gloo, to the end; raises where one of them fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(count):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(script), *map(str, arguments)]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=240)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * count, "\n".join(errors)


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory, tiny_llama, make_batch):
    """What `two_processes.py` found: the folder with its model and batches, and the results of each process."""
    folder = tmp_path_factory.mktemp("two-processes")
    tiny_llama(tied=False).save_pretrained(folder / "model")
    tensors = {}
    for role, (seed, count) in {"forget": (1, 5), "retain": (2, 6)}.items():
        batch = make_batch(count, seed=seed)
        batch = replace(batch, reference=torch.linspace(1.0, 9.0, count))
        tensors.update({f"{role}.{name}": value for name, value in vars(batch).items() if value is not None})
    save_file(tensors, folder / "batches.safetensors")
    launched(Path(__file__).with_name("two_processes.py"), 2, folder)
    return folder, [load_file(folder / f"rank{rank}.safetensors") for rank in range(2)]
