"""Two processes: TRAM's radius is each one's own, or the mean; SAF finds a record wherever it was trained on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from two_processes_of_trust_region import logits_of_epoch, split

from remanent.core.divergence import mean_divergence

PROGRAM = Path(__file__).with_name("two_processes_of_trust_region.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(PROGRAM)]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [load_file(folder / f"rank{rank}.safetensors") for rank in (0, 1)]


def test_the_replicas_stay_one_model(ranks):
    for name, value in ranks[0].items():
        if not name.startswith("own/"):
            assert torch.equal(value, ranks[1][name]), name


def test_a_radius_of_ones_own_or_the_mean(ranks):
    own, mean = ([float(found[f"own/{name}"]) for found in ranks] for name in ("replica", "global"))
    assert own[0] != own[1]
    assert mean[0] == mean[1] > 0


def test_saf_reads_what_another_process_stored(ranks):
    past, now = logits_of_epoch(1), logits_of_epoch(2)
    for rank, found in enumerate(ranks):
        index = split(2, rank)
        assert set(index.tolist()) - set(split(1, rank).tolist()), "some were the other's"
        expected = mean_divergence(past[index], now[index], temperature=5.0)
        assert float(found["own/saf"]) == pytest.approx(float(expected), rel=1e-5)
