"""Several tasks in two processes, each with half of a batch: one process on the whole batch, and one model in both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from two_processes_of_tasks import CASES, batch, closures, net, trained

PROGRAM = Path(__file__).with_name("two_processes_of_tasks.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, str(PROGRAM), str(folder)]
    running = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in (0, 1)]
    try:
        errors = [process.communicate(timeout=300)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)[-3000:]
    ranks = [load_file(folder / f"rank{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(value, ranks[1][name]) for name, value in ranks[0].items()), "the replicas are one model"
    return ranks[0]


@pytest.mark.parametrize(("kind", "how", "called"), CASES)
def test_the_weights(results, kind, how, called):
    model = net()
    for name, weight in trained(kind, how, model, None, model, slice(None)).items():
        torch.testing.assert_close(results[f"{kind}/{how}/{called}/{name}"], weight, rtol=0, atol=1e-12)
    assert not torch.equal(weight, dict(net().named_parameters())[name])


def test_what_the_processes_do_not_agree_on_is_refused_by_all(results):
    found = {name: int(results[f"refused/{name}"]) for name in ("order", "seed", "unwrapped", "another head")}
    assert found == {"order": 0, "seed": 0, "unwrapped": 1, "another head": 1}
    assert all(torch.equal(results[f"refused/after/{name}"], weight) for name, weight in net().named_parameters())


def test_a_head_with_records_in_one_process_only(results):
    """Its gradient is that process's, halved."""
    model = net()
    loss = closures("apart", model, *batch(0, slice(0, None, 2)))["b"]()
    (gradient,) = torch.autograd.grad(loss, model.heads["b"].weight)
    expected = model.heads["b"].weight.detach() - 0.2 * gradient / 2
    torch.testing.assert_close(results["few/heads.b.weight"], expected, rtol=0, atol=1e-12)
