"""CSV files that a person made: read whole, and wrong in a line that is named."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from remanent.errors import DataError, InputError


def read_csv(file: Path, field: str) -> tuple[list[str], list[list[str]]]:
    """The header, and the rows, each of its length and without an empty value.

    Args:
        file: the file, with a header.
        field: what errors call it.

    Raises:
        InputError: where it cannot be read, or holds less than a header and two rows.
        DataError: naming the line and the column that is wrong.
    """
    try:
        rows = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8-sig")), strict=True))
    except OSError as error:
        raise InputError(field, str(file), f"a CSV file that can be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(field, str(file), f"a CSV file in UTF-8 ({error})") from None
    if len(rows) < 3:
        raise InputError(field, str(file), "a header and at least 2 rows")
    header = [name.strip() for name in rows[0]]
    for name in header:
        if not name or header.count(name) > 1:
            raise DataError(file, 1, name, "column names must be there and differ")
    lines = []
    for line, row in enumerate(rows[1:], start=2):
        if not row:
            raise DataError(file, line, "", "is empty")
        if len(row) != len(header):
            raise DataError(file, line, "", f"has {len(row)} values; the header has {len(header)}")
        lines.append([value.strip() for value in row])
        for name, value in zip(header, lines[-1], strict=True):
            if not value:
                raise DataError(file, line, name, "is empty; expected a value")
    return header, lines


def like_number(text: str) -> bool:
    """Whether Python reads a number, be it nan, inf or 1_000."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def finite_number(text: str) -> float | None:
    """The number that a text spells in plain figures; None where there is none."""
    value = float(text) if like_number(text) and "_" not in text else math.nan
    return value if math.isfinite(value) else None
