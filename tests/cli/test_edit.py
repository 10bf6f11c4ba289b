"""An edit through the same command as a method."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from remanent.core.intervention import taken_off, worn
from remanent.core.weights import has_adapter
from remanent.models.load import load
from remanent.models.save import is_saved


def edit(world, out, *more):
    return ["unlearn", "--model", world.model, *world.records, "--method", "ssd", "--out", out, *more]


def test_ssd_from_the_command_line(call, world, tmp_path):
    run = tmp_path / "run"
    result = call(*edit(world, run, "--set", "alpha=1.5", "--seed", 2))
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{run / 'model'}\n"
    assert "edited: forget NLL" in result.stderr
    assert is_saved(run / "model")
    found = json.loads((run / "manifest.json").read_text())
    assert found["edit"]["damped"] > 0
    assert found["edit"]["order"] == "shuffled, seed 2"
    assert set(found["edit"]["nll"]) == {"forget", "retain", "control"}
    assert "steps" not in found
    assert any(name.startswith("model/") for name in found["outputs"])
    assert yaml.safe_load((run / "config.yaml").read_text())["method"] == "ssd"
    again = call(*edit(world, run, "--set", "alpha=1.5", "--seed", 2))
    assert "finished already" in " ".join(again.stderr.split())
    audited = call("audit", "--model", run / "model", "--reference", world.model, *world.records, "--at", "full")
    assert audited.exit_code in (0, 1), audited.output
    assert (run / "report.html").is_file() or (run / "judgement.json").is_file()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--steps", 3), "steps: got 3; expected nothing, since ssd edits once"),
        (("--adapter", "lora"), "adapter: got 'lora'; expected full, since ssd scales weights in place"),
        (("--select", "*.mlp.*"), "select"),
        (("--precision", "bf16"), "precision"),
        (("--set", "alfa=3"), "did you mean 'alpha'"),
        (("--set", "alpha=1000000"), "the largest ratio"),
    ],
)
def test_what_does_not_fit_an_edit_is_named(call, world, tmp_path, more, says):
    result = call(*edit(world, tmp_path / "run", *more))
    assert result.exit_code == 2
    assert says in result.stderr.replace("\n", " ")
    assert not (tmp_path / "run" / "model").exists()


def test_the_edit_is_priced(call, world):
    result = call("doctor", "--model", world.model, *world.records, "--method", "ssd", "--json")
    assert result.exit_code == 0, result.output
    stage = json.loads(result.stdout)["estimate"]["prices"][0]
    assert stage["operations"] > 0
    assert stage["memory"]["importances of both sets"] > 0


def test_what_moves_no_weight_is_made_on_an_adapter_and_saved_with_the_merged_model(call, world, tmp_path):
    run = tmp_path / "run"
    settings = ("--adapter", "lora", "--set", "epochs=1", "--set", "rank=2", "--out", run)
    result = call("unlearn", "--model", world.model, *world.records, "--method", "uld", *settings)
    assert result.exit_code == 0, result.output
    saved = load(run / "model").model
    assert [item.kind for item in worn(saved)] == ["uld"]
    assert not has_adapter(saved)
    with taken_off(saved), torch.no_grad():
        ids = torch.tensor([[1, 7, 5, 3]])
        torch.testing.assert_close(saved(input_ids=ids).logits, load(world.model).model(input_ids=ids).logits)
