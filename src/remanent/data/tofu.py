"""TOFU by name: 4000 questions about 200 fictitious authors (Maini et al. 2024, arXiv 2401.06121)."""

from __future__ import annotations

from pathlib import Path

from remanent.data.hub import hub_rows
from remanent.data.jsonl import read_rows
from remanent.data.record import Record
from remanent.data.rows import RowReader
from remanent.errors import InputError, did_you_mean

REPOSITORY = "locuslab/TOFU"
QUESTIONS_PER_AUTHOR = 20
ROWS = 4000

# Name -> first row and number of rows in the full set; the authors to forget stand at its end.
_PARTS = {
    "full": (0, ROWS),
    **{f"retain{100 - share}": (0, ROWS - share * ROWS // 100) for share in (1, 5, 10)},
    **{f"forget{share:02d}": (ROWS - share * ROWS // 100, share * ROWS // 100) for share in (1, 5, 10)},
    **{f"forget{share:02d}_perturbed": (ROWS - share * ROWS // 100, share * ROWS // 100) for share in (1, 5, 10)},
    "retain_perturbed": (0, 400),
}
_UNSEEN = ("holdout01", "holdout05", "holdout10")
_REAL = ("real_authors", "real_authors_perturbed", "world_facts", "world_facts_perturbed")
NAMES = (*_PARTS, *_UNSEEN, *_REAL)


def tofu(name: str, folder: str | Path | None = None, role: str = "tofu") -> list[Record]:
    """A part of TOFU; the group is the author (20 rows in a row), so that splits keep authors whole.

    Args:
        name: as on the hub: full, forget01/05/10, retain99/95/90, holdout01/05/10 (authors that no model was taught),
            real_authors, world_facts, and with paraphrases and wrong answers forget01_perturbed and so on. A row has
            one key in all parts of the full set.
        folder: where to look first, for <name>.jsonl (retain parts may come from full.jsonl); then the hub.
        role: the setting that named it, for errors.

    Raises:
        InputError: where there is no such part, the hub cannot give it, or a part of the full set has not its length.
        DataError: where a row is wrong.
    """
    if name not in NAMES:
        raise InputError(role, f"tofu:{name}", did_you_mean(name, NAMES))
    first, count = _PARTS.get(name, (0, None))
    path = _local(name, folder)
    rows = read_rows(path, role) if path else hub_rows(REPOSITORY, name, "train", role)
    if path and path.stem == "full":
        rows = rows[first : None if count is None else first + count]
    source = path or f"{REPOSITORY}:{name}"
    if count is not None and len(rows) != count:
        raise InputError(role, f"{source} with {len(rows)} rows", f"{count} rows, as tofu:{name} has them")
    reader = RowReader(source, role)
    return [
        reader.read({**row, **_identity(name, first + place)} if isinstance(row, dict) else row, line)
        for place, (line, row) in enumerate(rows)
    ]


def _identity(name: str, row: int) -> dict[str, str]:
    author = row // QUESTIONS_PER_AUTHOR
    if name in _PARTS:
        return {"key": f"tofu/{row:04d}", "group": f"tofu/author-{author:03d}"}
    key = f"tofu/{name.removesuffix('_perturbed')}/{row:03d}"
    return {"key": key, "group": f"tofu/{name}/author-{author:02d}" if name in _UNSEEN else key}


def _local(name: str, folder: str | Path | None) -> Path | None:
    if folder is None:
        return None
    candidates = [name]
    if name.startswith("retain") and name in _PARTS and not name.endswith("_perturbed"):
        candidates.append("full")
    if name in _REAL:
        candidates = [name.removesuffix("_perturbed"), name]
    paths = [Path(folder) / f"{candidate}.jsonl" for candidate in candidates]
    return next((path for path in paths if path.is_file()), None)
