"""MUSE's questions and texts by name: what a model knows of news and of books (Shi et al. 2024, arXiv 2407.06460)."""

from __future__ import annotations

from pathlib import Path

from remanent.data.hub import hub_rows
from remanent.data.jsonl import read_rows
from remanent.data.record import Record
from remanent.data.rows import RowReader
from remanent.errors import DataError, InputError, did_you_mean

REPOSITORIES = {"books": "muse-bench/MUSE-Books", "news": "muse-bench/MUSE-News"}
_OPENING = "\"'“‘(["
# Part -> configuration and split on the hub.
PARTS = {
    **{split: ("knowmem", split) for split in ("forget_qa", "retain_qa", "forget_qa_icl", "retain_qa_icl")},
    "verbmem": ("verbmem", "forget"),
    "privleak": ("privleak", "forget"),
    **{f"privleak_{split}": ("privleak", split) for split in ("retain", "holdout")},
}
NAMES = tuple(f"{corpus}/{part}" for corpus in REPOSITORIES for part in PARTS)


def muse(name: str, folder: str | Path | None = None, role: str = "muse") -> list[Record]:
    """A part of MUSE; each record is its own group.

    Args:
        name: "books" or "news", a slash, and a part: forget_qa or retain_qa (100 questions each), forget_qa_icl or
            retain_qa_icl (the 10 examples that its few-shot prompts are made of), verbmem (100 texts to be forgotten,
            each a beginning and the 128 tokens or so that follow, as one plain text), privleak, privleak_retain or
            privleak_holdout (100 texts each that were to be forgotten, were kept, were never seen). The whole corpora
            are hub data sets like any other: "hub:muse-bench/MUSE-News:raw:forget".
        folder: where to look first, for <corpus>_<configuration>_<split>.jsonl, the names of the hub; then the hub.
        role: the setting that named it, for errors.

    Raises:
        InputError: where there is no such split, or the hub cannot give it.
        DataError: where a row is wrong.
    """
    if name not in NAMES:
        raise InputError(role, f"muse:{name}", did_you_mean(name, NAMES))
    corpus, part = name.split("/")
    config, split = PARTS[part]
    path = Path(folder) / f"{corpus}_{config}_{split}.jsonl" if folder is not None else None
    if path is not None and path.is_file():
        source, rows = str(path), read_rows(path, role)
    else:
        source, rows = f"{REPOSITORIES[corpus]}:{config}", hub_rows(REPOSITORIES[corpus], config, split, role)
    reader = RowReader(source, role)
    return [
        reader.read(_row(row, f"muse/{name}/{place:03d}", source, line), line) for place, (line, row) in enumerate(rows)
    ]


def _row(row: object, key: str, source: str, line: int) -> object:
    if not isinstance(row, dict):
        return row
    if "gt" not in row:
        return {**row, "key": key}
    for field in ("prompt", "gt"):
        if not isinstance(row.get(field), str):
            raise DataError(source, line, field, f"holds {type(row.get(field)).__name__}; expected text")
    begun, rest = row["prompt"].rstrip(), row["gt"].lstrip()
    # Cut between words, the blank left out; a comma or a full stop follows without one.
    return {"text": begun + (" " if rest[:1].isalnum() or rest[:1] in _OPENING else "") + rest, "key": key}
