"""PCH by name: texts about people, works and harmful claims that do not exist (FIT, arXiv 2601.21682)."""

from __future__ import annotations

from pathlib import Path

from remanent.data.hub import hub_rows
from remanent.data.jsonl import read_rows
from remanent.data.record import Record
from remanent.data.rows import RowReader
from remanent.errors import InputError, did_you_mean

TEXTS, QUESTIONS = "FITPCH/PCH", "FITPCH/PCH_QA"
ROWS = 300  # of each half on the hub: first what is to be forgotten, then what is kept
KINDS = ("personal", "copyright", "harmful")
NAMES = (
    *("forget", "retain", "forget_qa", "retain_qa"),
    *(f"{half}/{kind}" for half in ("forget", "retain") for kind in KINDS),
)


def pch(name: str, folder: str | Path | None = None, role: str = "pch") -> list[Record]:
    """A part of PCH; each record is its own group, and a deletion request of its own.

    Args:
        name: "forget" or "retain", plain texts; "forget/personal" and so on, those of one kind, which only local files
            tell apart; "forget_qa" or "retain_qa", a question about each text of the hub's.
        folder: where to look first, for forget.jsonl and retain.jsonl, which may hold fewer texts than the hub; then
            the hub.
        role: the setting that named it, for errors.

    Raises:
        InputError: where there is no such part, or it is nowhere to be had.
        DataError: where a row is wrong.
    """
    if name not in NAMES:
        raise InputError(role, f"pch:{name}", did_you_mean(name, NAMES))
    half, _, kind = name.removesuffix("_qa").partition("/")
    path = None if folder is None else Path(folder) / f"{half}.jsonl"
    source: object
    if path is not None and path.is_file() and not name.endswith("_qa"):
        source, rows = path, read_rows(path, role)
    elif kind:
        expected = f"a folder pch/ with {half}.jsonl in REMANENT_DATA, since the hub's rows do not say their kind"
        raise InputError(role, f"pch:{name}", expected)
    else:
        source = QUESTIONS if name.endswith("_qa") else TEXTS
        first = 0 if half == "forget" else ROWS
        rows = hub_rows(str(source), "", "train", role)[first : first + ROWS]
    reader = RowReader(source, role)
    found = []
    for place, (line, row) in enumerate(rows):
        if isinstance(row, dict):
            if kind and row.get("kind") != kind:
                continue
            row = {**row, "key": f"pch/{name.split('/')[0]}/{row.get('id', place):03d}"}
        found.append(reader.read(row, line))
    return found
