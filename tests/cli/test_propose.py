from __future__ import annotations

import csv
import json

import pytest
import torch

SMALL = ("--epochs", 10, "--width", 16)


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """60 designs: yield rises with heat, and is higher in oil."""
    file = tmp_path_factory.mktemp("designs") / "designs.csv"
    generator = torch.Generator().manual_seed(0)
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["id", "heat", "time", "solvent", "yield"])
        for number in range(60):
            heat, time = (torch.rand(2, generator=generator) * 10).tolist()
            solvent = ("oil", "water")[number % 2]
            writer.writerow([f"run {number}", heat, time, solvent, heat + 5 * (solvent == "oil")])
    return file


def test_it_writes_the_tables_columns_and_says_what_to_know(call, sheet, tmp_path):
    out = tmp_path / "proposals.csv"
    options = ("--table", sheet, "--score", "yield", "--skip", "id", "--count", 6, *SMALL)
    result = call("propose", *options, "--out", out)
    assert result.exit_code == 0, result.stderr
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["heat", "time", "solvent", "promised", "outside"]
    assert len(rows) == 6
    assert sum(row["solvent"] == "oil" for row in rows) >= 5
    assert float(rows[0]["promised"]) >= float(rows[-1]["promised"])
    assert "6 proposals" in result.stdout
    assert "only a measurement tells" in result.stdout
    again = tmp_path / "again.csv"
    shown = json.loads(call("propose", *options, "--out", again, "--json").stdout)
    assert again.read_text() == out.read_text()
    assert (shown["known"], shown["proposals"]) == (60, 6)
    assert shown["gradient_norm"] > 0


def test_lower_may_be_better(call, sheet, tmp_path):
    out = tmp_path / "proposals.csv"
    options = ("--table", sheet, "--score", "yield", "--skip", "id", "--count", 6, *SMALL, "--minimize")
    assert call("propose", *options, "--out", out).exit_code == 0
    rows = list(csv.DictReader(out.open()))
    assert sum(row["solvent"] == "water" for row in rows) >= 5
    assert float(rows[0]["promised"]) <= float(rows[-1]["promised"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--score", "yeild"), "did you mean 'yield'"),
        (("--score", "yield"), "column"),  # the ids are no numbers and too many categories
        (("--score", "yield", "--skip", "id", "--count", 61), "from 1 to 60"),
        (("--score", "yield", "--skip", "id", "--regularizer", "none", "--rho", 0.1), "no regularizer"),
        (("--score", "yield", "--skip", "id", "--search", "annealing"), "search"),
    ],
)
def test_bad_input_ends_with_a_line_and_writes_nothing(call, sheet, tmp_path, options, said):
    result = call("propose", "--table", sheet, *options, "--out", tmp_path / "proposals.csv")
    assert result.exit_code == 2
    assert said in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_not_written_over(call, sheet):
    result = call("propose", "--table", sheet, "--score", "yield", "--out", sheet)
    assert result.exit_code == 2
    assert "not there yet" in result.stderr
