from __future__ import annotations

import csv

import pytest
import torch

from remanent.designs.propose import Proposal
from remanent.designs.table import Column, read_table
from remanent.errors import DataError, InputError

TEXT = "id,heat,solvent,yield\n1,20,water,0.5\n2,40,oil,0.7\n3,30.5,water,-1e-2\n"


def written(folder, text):
    file = folder / "table.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_numbers_and_categories(tmp_path):
    table = read_table(written(tmp_path, TEXT), "yield", ["id"])
    assert table.columns == (Column("heat"), Column("solvent", ("oil", "water")))
    assert table.designs.tolist() == [[20, 0, 1], [40, 1, 0], [30.5, 0, 1]]
    assert table.scores.tolist() == [0.5, 0.7, -0.01]
    assert table.blocks == (slice(1, 3),)
    assert table.rows(table.designs) == [["20", "water"], ["40", "oil"], ["30.5", "water"]]


def test_quotes_spaces_and_a_mark_at_the_start(tmp_path):
    table = read_table(written(tmp_path, '\ufeff"a, b",score \n" 1",2\n2 , 3\n'), "score")
    assert table.columns == (Column("a, b"),)
    assert table.designs.tolist() == [[1], [2]]


@pytest.mark.parametrize("minimize", [False, True])
def test_proposals_are_written_in_the_tables_columns(tmp_path, minimize):
    table = read_table(written(tmp_path, TEXT), "yield", ["id"])
    found = Proposal(torch.tensor([[41.25, 1.0, 0.0]]), torch.tensor([0.9]), torch.tensor([1]), 1.0)
    table.write(tmp_path / "out.csv", found, minimize=minimize)
    rows = list(csv.reader((tmp_path / "out.csv").open(encoding="utf-8")))
    assert rows == [["heat", "solvent", "promised", "outside"], ["41.25", "oil", "-0.9" if minimize else "0.9", "1"]]


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("a,score\n1,2\n3\n", 3, ""),
        ("a,score\n1,2\n,3\n", 3, "a"),
        ("a,score\n1,2\n3,much\n", 3, "score"),
        ("a,score\n1,2\n3,inf\n", 3, "score"),
        ("a,a,score\n1,2,3\n1,2,4\n", 1, "a"),
        ("a,score\n1,2\n\n3,4\n", 3, ""),
        ("a,score\n1,2\nNaN,3\n", 3, "a"),
        ("a,score\n1,2\nwater,3\n", 3, "a"),
        ("a,score\nnan,2\noil,3\n", 2, "a"),
        ("a,score\n1000,2\n1_000,3\n", 3, "a"),
        ("a,score\n1,2\n3,1_000\n", 3, "score"),
        ("name,score\n" + "".join(f"thing {n},{n}\n" for n in range(60)), 2, "name"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, line, field):
    with pytest.raises(DataError) as caught:
        read_table(written(tmp_path, text), "score")
    assert (caught.value.line, caught.value.field) == (line, field)


def test_wrong_settings_are_named(tmp_path):
    file = written(tmp_path, TEXT)
    with pytest.raises(InputError, match="did you mean 'yield'"):
        read_table(file, "yeild")
    with pytest.raises(InputError, match="skip"):
        read_table(file, "yield", ["number"])
    with pytest.raises(InputError, match="beside"):
        read_table(file, "yield", ["id", "heat", "solvent"])
    with pytest.raises(InputError, match="can be read"):
        read_table(tmp_path / "none.csv", "yield")
    with pytest.raises(InputError, match="2 rows"):
        read_table(written(tmp_path, "a,score\n1,2\n"), "score")
