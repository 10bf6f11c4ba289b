"""MUSE's questions by name: what a model knows of news and of books (Shi et al. 2024, arXiv 2407.06460)."""

from __future__ import annotations

from pathlib import Path

from remanent.data.hub import hub_rows
from remanent.data.jsonl import read_rows
from remanent.data.record import Record
from remanent.data.rows import RowReader
from remanent.errors import InputError, did_you_mean

REPOSITORIES = {"books": "muse-bench/MUSE-Books", "news": "muse-bench/MUSE-News"}
SPLITS = ("forget_qa", "retain_qa", "forget_qa_icl", "retain_qa_icl")
NAMES = tuple(f"{corpus}/{split}" for corpus in REPOSITORIES for split in SPLITS)


def muse(name: str, folder: str | Path | None = None, role: str = "muse") -> list[Record]:
    """A split of MUSE's knowledge questions (its configuration `knowmem`); each record is its own group.

    Args:
        name: "books" or "news", a slash, and forget_qa, retain_qa (100 rows each), or forget_qa_icl, retain_qa_icl
            (the 10 examples that its few-shot prompts are made of). MUSE's texts are hub data sets like any other:
            "hub:muse-bench/MUSE-News:raw:forget".
        folder: where to look first, for <corpus>_knowmem_<split>.jsonl; then the hub.
        role: the setting that named it, for errors.

    Raises:
        InputError: where there is no such split, or the hub cannot give it.
        DataError: where a row is wrong.
    """
    if name not in NAMES:
        raise InputError(role, f"muse:{name}", did_you_mean(name, NAMES))
    corpus, split = name.split("/")
    path = Path(folder) / f"{corpus}_knowmem_{split}.jsonl" if folder is not None else None
    if path is not None and path.is_file():
        source, rows = str(path), read_rows(path, role)
    else:
        source, rows = f"{REPOSITORIES[corpus]}:knowmem", hub_rows(REPOSITORIES[corpus], "knowmem", split, role)
    reader = RowReader(source, role)
    return [
        reader.read({**row, "key": f"muse/{name}/{place:03d}"} if isinstance(row, dict) else row, line)
        for place, (line, row) in enumerate(rows)
    ]
