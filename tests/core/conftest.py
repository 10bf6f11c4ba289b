from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from launching import launched
from safetensors.torch import load_file, save_file


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
