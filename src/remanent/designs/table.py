"""A table of designs and scores: a CSV file to numbers, and proposals back to its columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from remanent.core.csv_file import finite_number, like_number, read_csv
from remanent.core.files import write_atomic
from remanent.designs.propose import Proposal
from remanent.errors import DataError, InputError, did_you_mean

_MOST = 50  # categories of a column; one with more is rather a name or a text
PROMISED, OUTSIDE = "promised", "outside"


@dataclass(frozen=True)
class Column:
    """A column of designs.

    Args:
        name: as the header has it.
        categories: its values, sorted; () for a column of numbers.
    """

    name: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Designs and scores of a CSV file.

    Args:
        columns: of the designs, in the file's order.
        designs: float64, (rows, inputs): a number for each column of numbers, one-hot for each column of categories.
        scores: float64, (rows,), as the file has them.
    """

    columns: tuple[Column, ...]
    designs: Tensor
    scores: Tensor

    @property
    def blocks(self) -> tuple[slice, ...]:
        """The inputs of each column of categories."""
        return tuple(block for column, block in self._places() if column.categories)

    def rows(self, designs: Tensor) -> list[list[str]]:
        """Designs as the file would have them: for each the text of each column."""
        found = []
        for design in designs:
            texts = []
            for column, block in self._places():
                part = design[block]
                texts.append(column.categories[int(part.argmax())] if column.categories else f"{float(part):.6g}")
            found.append(texts)
        return found

    def write(self, file: Path, proposal: Proposal, *, minimize: bool = False) -> None:
        """Write a proposal as a CSV file: the columns of the designs, `promised`, and `outside`.

        Args:
            file: the target.
            proposal: what was found with these designs, and these scores, or with `minimize` their negatives.
            minimize: turn the promised scores round.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*(column.name for column in self.columns), PROMISED, OUTSIDE])
        for row, promised, outside in zip(
            self.rows(proposal.designs), proposal.promised.tolist(), proposal.outside.tolist(), strict=True
        ):
            writer.writerow([*row, f"{-promised if minimize else promised:.6g}", outside])
        write_atomic(file, text.getvalue())

    def _places(self) -> list[tuple[Column, slice]]:
        places, start = [], 0
        for column in self.columns:
            width = max(1, len(column.categories))
            places.append((column, slice(start, start + width)))
            start += width
        return places


def read_table(file: Path, score: str, skip: Sequence[str] = ()) -> Table:
    """Read a CSV file with a header: one row for each design, one column with its score.

    A column all of whose values are numbers is one; a column without any holds categories.

    Args:
        file: the file, UTF-8.
        score: name of the column with the scores.
        skip: columns that say nothing of the design: a number, a name, a date.

    Raises:
        InputError: for a column that is not there, or no column of designs.
        DataError: naming the line and the column that is wrong.
    """
    columns, designs, texts = read_columns(file, "score", score, skip)
    scores = []
    for line, text in enumerate(texts, start=2):
        number = finite_number(text)
        if number is None:
            raise DataError(file, line, score, f"is {text[:40]!r}; expected a finite number")
        scores.append(number)
    return Table(columns, designs, torch.tensor(scores, dtype=torch.float64))


def read_columns(
    file: Path, field: str, target: str, skip: Sequence[str] = ()
) -> tuple[tuple[Column, ...], Tensor, list[str]]:
    """Read a CSV file: its columns but one, their values as numbers, and the text of the one.

    Args:
        file: the file, UTF-8, with a header.
        field: what errors call the one.
        target: the name of its column.
        skip: columns that are left out.

    Raises InputError and DataError as `read_table` does.
    """
    header, lines = read_csv(file, "table")
    skip = [name.strip() for name in skip]
    for setting, name in ((field, target), *(("skip", name) for name in skip)):
        if name not in header:
            raise InputError(setting, name, f"a column of {file}: {did_you_mean(name, header)}")
    columns, parts = [], []
    for place, name in enumerate(header):
        if name == target or name in skip:
            continue
        values = [row[place] for row in lines]
        numbers = [finite_number(value) for value in values]
        if any(like_number(value) for value in values) and None in numbers:
            wrong = numbers.index(None)
            problem = f"is {values[wrong][:40]!r} in a column with numbers"
            expected = "a finite number, written without '_', or none in the column, which then holds categories"
            raise DataError(file, wrong + 2, name, f"{problem}; expected {expected}")
        if None not in numbers:
            columns.append(Column(name))
            parts.append(torch.tensor(numbers, dtype=torch.float64)[:, None])
            continue
        categories = tuple(sorted(set(values)))
        if len(categories) > _MOST:
            problem = f"holds {values[0][:40]!r}, no number, and {len(categories)} values in all, more than {_MOST}"
            raise DataError(file, 2, name, f"{problem} categories; mend it, or skip the column")
        columns.append(Column(name, categories))
        places = torch.tensor([categories.index(value) for value in values])
        parts.append(torch.nn.functional.one_hot(places, len(categories)).double())
    if not columns:
        raise InputError("table", str(file), f"at least one column beside '{target}'")
    place = header.index(target)
    return tuple(columns), torch.cat(parts, dim=1), [row[place] for row in lines]
