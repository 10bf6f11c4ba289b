"""Deletion requests in their order: a folder of files, one file whose rows name their request, or records by group."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from remanent.data.jsonl import read_records, read_rows
from remanent.data.record import Record
from remanent.data.rows import RowReader
from remanent.errors import DataError, InputError

FIELD = "request"
_NAME = re.compile(r"[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Request:
    """One deletion request.

    Args:
        name: unique among the requests: letters, digits, '.', '_' and '-'.
        records: what it asks to be forgotten; keys are unique among all requests.
    """

    name: str
    records: tuple[Record, ...]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError("request", self.name, "a name of letters, digits, '.', '_' and '-'")
        if not self.records:
            raise InputError(f"request {self.name}", "no records", "at least one record")


def read_requests(path: str | Path) -> list[Request]:
    """The requests of a folder or a file.

    Args:
        path: a folder, each of whose .jsonl files is a request named as the file, in the order of the names; or a
            .jsonl file whose rows have a field "request", in the order in which the requests first appear.

    Raises:
        InputError: where a folder has no such file, or a name is not one of letters, digits, '.', '_' and '-'.
        DataError: naming file, line and field.
    """
    path = Path(path)
    if not path.is_dir():
        return _of_rows(path)
    files = sorted(file for file in path.glob("*.jsonl") if file.is_file())
    if not files:
        raise InputError("requests", str(path), "a folder with .jsonl files, one for each request")
    return [_named(file.stem, read_records(file, file.stem)) for file in files]


def by_group(records: Sequence[Record]) -> list[Request]:
    """Each group of records as a request, in the order in which the groups first appear."""
    groups = list(dict.fromkeys(record.group for record in records))
    of = {group: [record for record in records if record.group == group] for group in groups}
    return [Request(f"request-{place:04d}", tuple(of[group])) for place, group in enumerate(groups, start=1)]


def check_distinct(requests: Sequence[Request]) -> None:
    """Raise InputError where there is no request, or two share a name or a record's key."""
    if not requests:
        raise InputError("requests", "none", "at least one request")
    names: set[str] = set()
    keys: set[str] = set()
    for request in requests:
        if request.name in names:
            raise InputError("requests", request.name, "names that differ")
        names.add(request.name)
        for record in request.records:
            if record.key in keys:
                raise InputError(f"request {request.name}", record.key, "records whose keys differ among all requests")
            keys.add(record.key)


def _of_rows(path: Path) -> list[Request]:
    rows = read_rows(path, "requests")
    named = [isinstance(row, dict) and row.get(FIELD) is not None for _, row in rows]
    if not any(named):
        return by_group(read_records(path, "requests"))
    found: dict[str, list[Record]] = {}
    readers: dict[str, RowReader] = {}
    for (line, row), has in zip(rows, named, strict=True):
        if not has:
            raise DataError(path, line, FIELD, "is missing; expected the request's name, as in other rows")
        assert isinstance(row, dict)
        name = str(row[FIELD])
        reader = readers.setdefault(name, RowReader(path, name))
        found.setdefault(name, []).append(reader.read(row, line))
    return [_named(name, records) for name, records in found.items()]


def _named(name: str, records: Sequence[Record]) -> Request:
    """A request whose records' keys begin with its name, so that two requests may be about the same record."""
    return Request(
        name,
        tuple(
            record if record.key.startswith(f"{name}/") else replace(record, key=f"{name}/{record.key}")
            for record in records
        ),
    )
