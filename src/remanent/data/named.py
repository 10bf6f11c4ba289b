"""Records by name: a file, a folder of requests, the embedded authors, TOFU, MUSE, PCH, or any hub data set."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from remanent.data import blur, muse, pch, tofu
from remanent.data.authors import author_sets
from remanent.data.canaries import SETS as CANARY_SETS
from remanent.data.canaries import canaries
from remanent.data.hub import hub_rows
from remanent.data.jsonl import read_records
from remanent.data.record import Record
from remanent.data.requests import read_requests
from remanent.data.rows import RowReader
from remanent.errors import InputError, did_you_mean

AUTHOR_SETS = ("forget", "retain", "control")
NAMES = (
    *(f"authors:{part}" for part in AUTHOR_SETS),
    *(f"canaries:{part}" for part in CANARY_SETS),
    *(f"tofu:{name}" for name in tofu.NAMES),
    *(f"muse:{name}" for name in muse.NAMES),
    *(f"blur:{name}" for name in blur.NAMES),
    *(f"pch:{name}" for name in pch.NAMES),
)
FORMS = (
    "a path to a .jsonl file, or authors:<set>[:seed], canaries:<set>[:seed], tofu:<set>, muse:<set>, blur:<set>, "
    "pch:<set>, hub:<owner>/<name>[:config][:split]"
)


def load(name: str | Path, role: str, folder: str | Path | None = None, *, answered: bool = True) -> list[Record]:
    """The records that a name stands for.

    Args:
        name: one of
            a path to a JSON Lines file (`read_records`), or to a folder of requests (`read_requests`), all of them;
            "authors:forget", "authors:retain" or "authors:control", the embedded authors of seed 0, or of another
            seed: "authors:forget:3"; "canaries:forget" and "canaries:control" likewise;
            "tofu:forget01" and so on (`tofu.NAMES`); "muse:books/forget_qa" and so on (`muse.NAMES`);
            "blur:rwku/D_hi" and so on (`blur.NAMES`);
            "pch:forget" and so on (`pch.NAMES`);
            "hub:owner/name[:config][:split]", any data set on the hub whose rows have one of the forms that
            `read_records` takes; the split is "train" unless given, and "hub:owner/name::test" names a split alone.
        role: the setting that holds the name ("forget", "retain" ...), for errors and for keys that a file lacks.
        folder: where copies of TOFU, MUSE, BLUR and PCH lie, in folders tofu/, muse/ and pch/; default: the environment
            variable REMANENT_DATA. What is not there is asked of the hub.
        answered: whether the rows of a file, of a hub data set or of BLUR's questions must have answers.

    Raises:
        InputError: where the name is not known or cannot be loaded.
        DataError: where a row is wrong, with file, line and field.
        MissingExtraError: where the hub is asked and `datasets` is not installed.
    """
    text = str(name)
    scheme, _, rest = text.partition(":")
    folder = folder or os.environ.get("REMANENT_DATA") or None
    match scheme if rest else "":
        case "authors":
            return _drawn(author_sets, AUTHOR_SETS, rest, text, role)
        case "canaries":
            return _drawn(canaries, CANARY_SETS, rest, text, role)
        case "tofu":
            return tofu.tofu(rest, Path(folder, "tofu") if folder else None, role)
        case "muse":
            return muse.muse(rest, Path(folder, "muse") if folder else None, role)
        case "pch":
            return pch.pch(rest, Path(folder, "pch") if folder else None, role)
        case "blur":
            return blur.blur(rest, Path(folder, "blur") if folder else None, role, answered)
        case "hub":
            return _hub(rest, text, role, answered)
    if text and Path(text).is_dir():
        return [record for request in read_requests(text) for record in request.records]
    if text.endswith(".jsonl") or Path(text).is_file() or "/" in text or os.sep in text:
        return read_records(text, role, answered)
    near = re.search(r" \(did you mean .*", did_you_mean(text, NAMES))
    raise InputError(role, text, FORMS + (near.group() if near else ""))


def _drawn(draw: Callable[[int], object], sets: Sequence[str], rest: str, text: str, role: str) -> list[Record]:
    """A set of what is drawn by a seed."""
    scheme = text.partition(":")[0]
    part, _, seed = rest.partition(":")
    if part not in sets:
        raise InputError(role, text, f"{scheme}:<set>[:seed] with {did_you_mean(part, sets)}")
    if seed and not re.fullmatch(r"[0-9]+", seed):
        raise InputError(role, text, f"{scheme}:<set>[:seed] with a whole number from 0 as the seed")
    return list(getattr(draw(int(seed or 0)), part))


def _hub(rest: str, text: str, role: str, answered: bool) -> list[Record]:
    found = re.fullmatch(r"(?P<repository>[\w.-]+/[\w.-]+)(:(?P<config>[^:]*))?(:(?P<split>[^:]+))?", rest)
    if not found:
        raise InputError(role, text, "hub:<owner>/<name>[:config][:split]")
    repository, config, split = found["repository"], found["config"] or "", found["split"] or "train"
    reader = RowReader(text, role, answered)
    return [reader.read(row, line) for line, row in hub_rows(repository, config, split, role)]
