from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from remanent.data.useful import Useful

OUTPUTS = [[0.0, 0.0], [0.0, 0.1], [4.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
LABELS, LOSSES = [0, 0, 0, 1, 1, 1], [0.1, 0.1, 2.0, 0.3, 0.3, 0.3]


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_outputs_of_a_model_of_ones_own(call, tmp_path, kind):
    file, out = tmp_path / f"early.{kind}", tmp_path / "repeat.json"
    arrays = {"outputs": np.array(OUTPUTS, "f"), "labels": np.array(LABELS), "losses": np.array(LOSSES, "f")}
    if kind == "npz":
        np.savez(file, **arrays)
    else:
        save_file({name: torch.as_tensor(value) for name, value in arrays.items()}, file)
    result = call("upsample", "--data", file, "--factor", 3, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "1 of 6 records to repeat" in result.stdout
    assert "outputs all alike" in result.stderr
    assert Useful.load(out).indices == [0, 1, 2, 3, 4, 5, 2, 2]


def test_a_table_for_which_it_trains_the_early_model(call, tmp_path):
    """The easy column tells the class in 9 of 10 rows; the others are what is learnt late."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (300,), generator=generator)
    easy = torch.rand(300, generator=generator) < 0.9
    numbers = torch.randn(300, 3, generator=generator)
    numbers[:, 0] = (labels * 2 - 1) * easy * 3.0
    rows = [
        f"{number},{a:.3f},{b:.3f},{c:.3f},{'cat' if label else 'dog'}"
        for number, ((a, b, c), label) in enumerate(zip(numbers.tolist(), labels.tolist(), strict=True))
    ]
    file, out = tmp_path / "table.csv", tmp_path / "repeat.json"
    file.write_text("\n".join(["id,a,b,c,animal", *rows]), encoding="utf-8")
    options = ("--data", file, "--label", "animal", "--skip", "id", "--epochs", 8, "--width", 32)
    result = call("upsample", *options, "--out", out)
    assert result.exit_code == 0, result.stderr
    slow = torch.zeros(300, dtype=torch.bool)
    slow[list(Useful.load(out).slow)] = True
    assert (slow & ~easy).sum() > 0.8 * (~easy).sum()
    assert slow.sum() < 0.35 * 300
    assert "cat" in result.stdout
    again = tmp_path / "again.json"
    shown = json.loads(call("upsample", *options, "--out", again, "--json").stdout)
    assert again.read_text() == out.read_text()
    assert shown["names"] == ["cat", "dog"]
    assert len(shown["errors"]) == 8
    fixed = call("upsample", *options, "--early-epochs", 2, "--out", tmp_path / "two.json", "--json")
    assert len(json.loads(fixed.stdout)["errors"]) == 2


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"outputs": np.ones((3, 2), "f")}, "labels, and outputs or inputs"),
        ({"outputs": np.ones((3, 2), "f"), "labels": np.array([0, 1])}, "2 records"),
        ({"outputs": np.ones((3, 2), "f"), "labels": np.array([0.0, 1.0, 0.5])}, "whole numbers"),
        ({"outputs": np.ones((3, 2), "f"), "labels": np.array([0, 1, 0]), "losses": np.array(1.0)}, "single number"),
        ({"inputs": np.array([[1.0], [np.nan], [2.0]]), "labels": np.array([0, 1, 0])}, "data: inputs"),
    ],
)
def test_bad_arrays_are_named(call, tmp_path, arrays, said):
    np.savez(tmp_path / "early.npz", **arrays)
    result = call("upsample", "--data", tmp_path / "early.npz", "--out", tmp_path / "repeat.json")
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "repeat.json").exists()


def test_other_bad_input_is_named(call, tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n1,x\n2,y\n3,x\n")
    for name, said in (("table.csv", "label"), ("none.npz", "can be read"), ("table.xls", ".safetensors")):
        result = call("upsample", "--data", tmp_path / name, "--out", tmp_path / "repeat.json")
        assert result.exit_code == 2
        assert said in result.stderr


@pytest.mark.parametrize("options", [("--label", "animal"), ("--skip", "id")])
def test_columns_of_arrays_are_refused(call, tmp_path, options):
    np.savez(tmp_path / "early.npz", outputs=np.array(OUTPUTS, "f"), labels=np.array(LABELS))
    result = call("upsample", "--data", tmp_path / "early.npz", *options, "--out", tmp_path / "repeat.json")
    assert result.exit_code == 2
    assert options[1] in result.stderr
    assert not (tmp_path / "repeat.json").exists()


@pytest.mark.parametrize(("slow", "doubted"), [(0.15, True), (0.25, False)])
def test_clusters_whose_losses_are_near_are_doubted(call, tmp_path, slow, doubted):
    outputs, losses = np.array(OUTPUTS[:3], "f"), np.array([0.1, 0.1, slow], "f")
    np.savez(tmp_path / "early.npz", outputs=outputs, labels=np.array(LABELS[:3]), losses=losses)
    result = call("upsample", "--data", tmp_path / "early.npz", "--out", tmp_path / "repeat.json")
    assert result.exit_code == 0, result.stderr
    assert ("may be noise" in " ".join(result.stderr.split())) is doubted
