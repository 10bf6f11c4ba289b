"""The report of one run or several, from what lies in their folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from remanent.core.files import read_json, write_atomic
from remanent.core.run_folder import RunFolder
from remanent.errors import InputError
from remanent.report.html import render
from remanent.report.view import RunView


def view(folder: Path, name: str | None = None) -> RunView:
    """A run folder as a report sees it. Raises InputError where it holds no audit."""
    run = RunFolder(folder)
    if not run.audit.is_file() or not run.judgement.is_file():
        raise InputError("run", str(folder), "a run folder with audit.json and judgement.json")
    information: dict[str, Any] = read_json(run.manifest) if run.manifest.is_file() else {}
    information.pop("outputs", None)
    if run.config.is_file():
        information = {**yaml.safe_load(run.config.read_text(encoding="utf-8")), **information}
    asked, curve = folder / "asked.json", folder / "curve.json"
    return RunView.from_data(
        name or folder.name,
        read_json(run.audit),
        read_json(run.judgement),
        metrics=_lines(run.metrics),
        information=information,
        asked=read_json(asked) if asked.is_file() else (),
        curve=read_json(curve) if curve.is_file() else {},
    )


def report(folders: Sequence[Path], out: Path, title: str | None = None) -> Path:
    """Write the report of one run, or of several side by side, as one HTML file."""
    views = [view(folder) for folder in folders]
    write_atomic(out, render(views, title or "Forgetting audit: " + ", ".join(item.name for item in views)))
    for folder in folders:
        if out.parent.resolve() == folder.resolve():
            RunFolder(folder).record(folder / out.name)
    return out


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
