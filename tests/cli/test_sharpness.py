"""`remanent sharpness` on a tiny model: what it writes, that it goes on, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

SMALL = ("--records", 4, "--batch-size", 2, "--steps", 2, "--products", 2, "--points", 3, "--threads", 1)


@pytest.fixture(scope="module")
def measured(world, call, tmp_path_factory):
    out = tmp_path_factory.mktemp("sharpness") / "out"
    asked = (
        *("sharpness", "--model", world.model, "--other", world.model, "--data", world.sets["forget"], *SMALL),
        *("--at", "full,int8", "--measures", "all", "--select", "*layers.0.*", "--out", out),
        *("--definitions", "average-l2-element-0.02,worst-l2-0.05,worst-l2-element-0.5-normalized"),
    )
    return out, asked, call(*asked)


def test_figures_report_and_pictures_are_written(measured):
    out, _, result = measured
    assert result.exit_code == 0, result.output
    found = json.loads((out / "sharpness.json").read_text())
    assert {row["at"] for row in found["rows"]} == {"full", "int8"}
    names = {row["name"] for row in found["rows"]}
    assert names == {
        *("average-l2-element-0.02", "worst-l2-0.05", "worst-l2-element-0.5-normalized", "eigenvalues", "fisher"),
        *("gradient", "landscape", "path", "stragglers", "trace", "spectrum", "plane", "layers"),
        *("criticality", "noise", "neurons", "kernel"),
    }
    page = (out / "report.html").read_text()
    pictures = {file.stem for file in out.glob("*.png")}
    assert pictures == {
        *("definitions", "errors", "landscape", "path", "layers", "stragglers", "criticality", "neurons", "spectrum"),
        *("plane-1", "plane-2"),
    }
    assert page.count("<svg") == len(pictures)
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in out.glob("*.png"))
    for line in ("top eigenvalue", "worst-l2-0.05, error", "tangent kernel's condition", "loss under noise"):
        assert line in result.stdout
    by_name = {row["name"]: row for row in found["rows"] if row["at"] == "full"}
    assert by_name["kernel"]["rows"] == 2  # the records of a batch
    assert all(item["value"] == 0 for item in by_name["criticality"]["scores"].values())  # from a model to itself
    scaled = by_name["worst-l2-element-0.5-normalized"]
    assert scaled["definition"]["normalized"]
    assert scaled["clean"] == pytest.approx(math.log(320), abs=0.05)  # logits of length 1 say little of 320 tokens
    assert scaled["clean"] != by_name["worst-l2-0.05"]["clean"]
    layers = by_name["neurons"]["layers"]
    assert layers.keys() == {"model.layers.0.mlp.act_fn"}
    assert all(0 < share["value"] < 1 for share in layers.values())
    path = next(row for row in found["rows"] if row["name"] == "path")
    assert path["barrier"]["value"] == 0  # from a model to itself


def test_it_goes_on_with_what_is_missing_and_says_the_same(measured, call):
    out, asked, _ = measured
    before = (out / "sharpness.json").read_bytes()
    gone = next(file for file in (out / "found").iterdir() if "worst-l2-0.05" in file.name)
    kept = {file: file.stat().st_mtime_ns for file in (out / "found").iterdir() if file != gone}
    gone.unlink()
    result = call(*asked)
    assert result.exit_code == 0, result.output
    assert (out / "sharpness.json").read_bytes() == before
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())
    assert call(*asked, "--seed", 1).exit_code == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--measures", "eigenvalue"), "did you mean 'eigenvalues'"),
        (("--measures", "path"), "other"),
        (("--measures", "kernel", "--batch-size", 1), "batch_size"),
        (("--definitions", "worst-l3-0.1"), "norm"),
        (("--definitions", "worst-l2"), "a name such as"),
        (("--at", "relearning"), "precisions"),
        (("--select", "*nothing*"), "selection"),
        (("--records", 1), "records"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(world, call, tmp_path, more, message):
    result = call("sharpness", "--model", world.model, "--data", world.sets["forget"], "--out", tmp_path / "o", *more)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "o" / "sharpness.json").exists()


def test_a_set_of_one_record_has_no_kernel(world, call, tmp_path):
    single = tmp_path / "single.jsonl"
    single.write_text(Path(world.sets["forget"]).read_text().splitlines()[0] + "\n")
    sets = f"{world.sets['forget']},{single}"
    asked = ("sharpness", "--model", world.model, "--data", sets, *SMALL, "--select", "*layers.0.*")
    result = call(*asked, "--measures", "gradient,kernel", "--out", tmp_path / "a")
    assert result.exit_code == 2, result.output
    assert "single.jsonl" in result.stderr
    assert not (tmp_path / "a" / "found").exists()


def test_all_measures_on_batches_of_one_record_are_all_but_the_kernel(world, call, tmp_path):
    asked = ("sharpness", "--model", world.model, "--data", world.sets["forget"], *SMALL, "--select", "*layers.0.*")
    more = ("--measures", "all", "--batch-size", 1, "--records", 2, "--out", tmp_path / "o")
    result = call(*asked, *more)
    assert result.exit_code == 0, result.output
    assert "kernel is left out" in result.stderr
    names = {row["name"] for row in json.loads((tmp_path / "o" / "sharpness.json").read_text())["rows"]}
    assert "neurons" in names
    assert "kernel" not in names


def test_the_seed_moves_random_points_alone(world, call, tmp_path):
    found = []
    for seed in (0, 1):
        asked = ("sharpness", "--model", world.model, "--data", world.sets["forget"], *SMALL, "--seed", seed)
        more = ("--measures", "sharpness,layers", "--select", "*layers.0.*", "--out", tmp_path / str(seed))
        assert call(*asked, *more).exit_code == 0
        rows = json.loads((tmp_path / str(seed) / "sharpness.json").read_text())["rows"]
        found.append({row["name"]: row for row in rows})
    first, second = found
    assert first["worst-l2-0.05"]["loss"] == second["worst-l2-0.05"]["loss"]
    assert first["average-l2-element-0.02"]["loss"] != second["average-l2-element-0.02"]["loss"]
    assert first["layers"]["whole"]["loss"] != second["layers"]["whole"]["loss"]
    assert second["layers"]["whole"]["definition"]["seed"] == 1


def test_in_python_with_records_of_ones_own(world, tmp_path):
    from remanent.api import sharpness
    from remanent.data.jsonl import read_records

    records = read_records(world.sets["forget"], "forget")
    options = {"records": 4, "batch_size": 2, "measures": "gradient", "threads": 1}
    found = sharpness(world.model, {"mine": records}, out=tmp_path / "o", progress=False, **options)
    assert [(row["data"], row["name"]) for row in found["rows"]] == [("mine", "gradient")]


@pytest.fixture(scope="module")
def adapter(world, tmp_path_factory):
    """A LoRA on the world's model that does something."""
    import torch

    from remanent.models.load import load
    from remanent.models.lora import add_lora
    from remanent.models.save import save

    loaded = load(world.model)
    model = add_lora(loaded.model, rank=2)
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=generator)
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    save(model, loaded.tokenizer, folder)
    return folder


@pytest.mark.parametrize("at", ["full", "int4-row"])
def test_an_adapter_and_its_base_are_one_path_in_both_directions(world, call, adapter, tmp_path, at):
    asked = ("--data", world.sets["forget"], *SMALL, "--measures", "path,stragglers", "--at", at)
    losses = []
    for number, (model, other) in enumerate(((adapter, world.model), (world.model, adapter))):
        result = call("sharpness", "--model", model, "--other", other, *asked, "--out", tmp_path / str(number))
        assert result.exit_code == 0, result.output
        rows = json.loads((tmp_path / str(number) / "sharpness.json").read_text())["rows"]
        losses.append([item["value"] for item in next(row for row in rows if row["name"] == "path")["losses"]])
    assert losses[0] == pytest.approx(losses[1][::-1], rel=1e-4)
    assert abs(losses[0][0] - losses[0][-1]) > 1e-3  # the adapter does something
    more = ("--select", "*lora_*", "--out", tmp_path / "lora")
    assert call("sharpness", "--model", adapter, "--other", world.model, *asked, *more).exit_code == 0
    rows = json.loads((tmp_path / "lora" / "sharpness.json").read_text())["rows"]
    assert [item["value"] for item in rows[0]["losses"]] == losses[0]
