"""`remanent sharpness-correlation` on four models of one kind: what it reads, writes and refuses."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
import torch

SMALL = ("--records", 4, "--batch-size", 2, "--steps", 2, "--threads", 1, "--measures", "sharpness,gradient")


@pytest.fixture(scope="module")
def runs(world, call, tmp_path_factory):
    """Four models, each with larger noise on its head, and what `remanent sharpness` found of them."""
    from remanent.models.load import load
    from remanent.models.save import save

    folder = tmp_path_factory.mktemp("models")
    found = []
    for number in range(4):
        loaded = load(world.model)
        head = loaded.model.get_output_embeddings().weight
        with torch.no_grad():
            head.add_(number * torch.randn(head.shape, generator=torch.Generator().manual_seed(number)))
        save(loaded.model, loaded.tokenizer, folder / f"model-{number}")
        out = folder / f"run-{number}"
        more = ("--definitions", "average-l2-0.05,worst-l2-0.05-normalized", "--out", out)
        asked = ("--model", folder / f"model-{number}", "--data", world.sets["forget"], *SMALL, *more)
        result = call("sharpness", *asked)
        assert result.exit_code == 0, result.output
        found.append(out)
    return found


def table(path, rows, header="run,test error,rate"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def figures(runs, tmp_path):
    return table(
        tmp_path / "errors.csv", [f"{run.name},{10 + place},{0.1 - 0.01 * place}" for place, run in enumerate(runs)]
    )


def test_table_pictures_and_page(runs, figures, call, tmp_path):
    out = tmp_path / "out"
    result = call("sharpness-correlation", *runs, "--figures", figures, "--out", out)
    assert result.exit_code == 0, result.output
    found = json.loads((out / "correlation.json").read_text())
    assert set(found["correlations"]) == {
        *("loss", "average-l2-0.05", "average-l2-0.05, error", "worst-l2-0.05-normalized"),
        *("worst-l2-0.05-normalized, error", "gradient norm"),
    }
    losses = [model["sharpness"]["loss"] for model in found["models"]]
    assert losses == sorted(losses)  # larger noise, larger loss
    of_loss = found["correlations"]["loss"]
    assert of_loss["test error"]["tau"]["value"] == 1
    assert of_loss["rate"]["tau"]["value"] == -1
    rows = list(csv.DictReader((out / "correlation.csv").open()))
    assert {row["measure"]: row["tau"] for row in rows if row["figure"] == "rate"}["loss"] == "-1.0"
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 2
    for name in ("scatter-test-error.png", "scatter-rate.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert "+1.00" in result.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda runs: (runs[:3], "run,error", [f"{run.name},1" for run in runs]), "at least 4"),
        (lambda runs: (runs, "run,error", [f"{run.name},1" for run in runs[:3]]), "did you mean"),
        (lambda runs: (runs, "run,error", [f"{run.name},high" for run in runs]), "expected a finite number"),
        (lambda runs: (runs, "run", [run.name for run in runs]), "column of figures"),
        (lambda runs: (runs, "run,error", [f"{run.name},1" for run in [*runs, runs[0]]]), "again"),
        (lambda runs: ([*runs, runs[0].parent], "run,error", [f"{run.name},1" for run in runs]), "sharpness.json"),
    ],
)
def test_what_is_wrong_is_said(runs, call, tmp_path, change, message):
    chosen, header, rows = change(runs)
    file = table(tmp_path / "errors.csv", rows, header)
    result = call("sharpness-correlation", *chosen, "--figures", file, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_runs_of_other_settings_are_not_compared(runs, figures, world, call, tmp_path):
    other = tmp_path / "run-3"
    asked = ("--model", runs[3].parent / "model-3", "--data", world.sets["forget"], *SMALL, "--records", 6)
    assert call("sharpness", *asked, "--out", other).exit_code == 0
    result = call("sharpness-correlation", *runs[:3], other, "--figures", figures, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "not comparable" in result.stderr


def test_a_row_is_of_one_run(runs, call, tmp_path):
    twins = []
    for number, run in enumerate(runs):
        twins.append(tmp_path / f"lr{number}" / "sharp")
        shutil.copytree(run, twins[-1])
    by_name = table(tmp_path / "errors.csv", ["sharp,1", "other,2"], "run,error")
    result = call("sharpness-correlation", *twins, "--figures", by_name, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    said = " ".join(result.stderr.split())
    assert "figures: got 'sharp for both" in said
    assert "name them by folder in column run" in said
    by_folder = table(tmp_path / "errors.csv", [f"{run},{place}" for place, run in enumerate(twins)], "run,error")
    result = call("sharpness-correlation", *twins, "--figures", by_folder, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    models = json.loads((tmp_path / "out" / "correlation.json").read_text())["models"]
    assert [model["figures"]["error"] for model in models] == [0, 1, 2, 3]


def test_a_folder_is_one_model(runs, figures, call, tmp_path):
    again = tmp_path / "again"
    again.symlink_to(runs[0])
    result = call("sharpness-correlation", *runs, again, "--figures", figures, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert "each folder once" in result.stderr


def test_figures_of_other_runs_are_not_looked_at(runs, call, tmp_path):
    rows = [f"{run.name},{place}" for place, run in enumerate(runs)]
    file = table(tmp_path / "errors.csv", [*rows, "crashed,n/a"], "run,error")
    result = call("sharpness-correlation", *runs, "--figures", file, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
