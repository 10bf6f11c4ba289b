"""What a person means who names a run's folder, or a model's, and where a new file may lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from remanent.core.run_folder import RunFolder
from remanent.errors import InputError

LOG, CURVE = "requests.jsonl", "curve.json"  # of a run with requests: a row for each, and the points between
AUDITS = "audits"  # of a run with requests: an audit's folder for each number of requests obeyed
_RUNS = Path("runs")


@dataclass(frozen=True)
class Sides:
    """The model after unlearning, the one before it, and the system turn both were used with.

    Args:
        after: folder or name.
        before: folder or name; None where it is not known.
        system: system turn; None leaves it to the chat template.
    """

    after: str
    before: str | None = None
    system: str | None = None


def sides(run_or_model: str) -> Sides:
    """Both sides of a run's folder; a model's folder or name is an after without a before.

    Raises InputError where the run has not saved its model yet.
    """
    run = RunFolder(Path(run_or_model))
    if not run.config.is_file():
        return Sides(run_or_model)
    if not run.model.is_dir():
        raise InputError("run", run_or_model, "a run that has saved its model; the same command goes on with it")
    settings: dict[str, Any] = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    system = (settings.get("data") or settings).get("system")
    return Sides(str(run.model), settings.get("model"), system)


def audit_folder(model: str) -> Path:
    """Where an audit goes whose folder nobody named: the run that saved the model, else runs/audit-<name>."""
    path = Path(model)
    if path.name in ("", ".."):  # "." and the like have a parent on the disk, not in their spelling
        path = path.resolve()
    if path.is_dir() and RunFolder(path.parent).config.is_file():
        return path.parent
    return _RUNS / f"audit-{path.name.removesuffix('.gguf')}"


def sharpness_folder(model: str) -> Path:
    """Where measures of sharpness go whose folder nobody named: runs/sharpness-<name>."""
    return _RUNS / f"sharpness-{Path(model).resolve().name.removesuffix('.gguf')}"


def check_new_file(out: Path) -> None:
    """Raise InputError where a file to be written is there already, or its folder is not."""
    if out.exists():
        raise InputError("out", str(out), "a file that is not there yet")
    if not out.parent.is_dir():
        raise InputError("out", str(out), f"a file in a folder that is there; {out.parent} is not")
