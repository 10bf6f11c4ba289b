"""The report of one run or several, from what lies in their folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from remanent.auditing.evidence import AUDITED, FORGET, Evidence
from remanent.core.files import read_json, write_atomic
from remanent.core.run_folder import RunFolder
from remanent.errors import InputError
from remanent.jobs.folders import AUDITS, CURVE, LOG
from remanent.report import queue_page
from remanent.report.html import render
from remanent.report.muse import MuseTable, sustainability
from remanent.report.queue_page import QueueView
from remanent.report.view import RunView


def view(folder: Path, name: str | None = None) -> RunView:
    """A run folder as a report sees it. Raises InputError where it holds no audit."""
    run = RunFolder(folder)
    if not _audited(run):
        expected = "a run folder with audit.json and judgement.json, or, by itself, one of requests that were obeyed"
        raise InputError("run", str(folder), expected)
    asked, curve = folder / "asked.json", folder / CURVE
    return RunView.from_data(
        name or folder.name,
        read_json(run.audit),
        read_json(run.judgement),
        metrics=_lines(run.metrics),
        information=_information(run),
        asked=read_json(asked) if asked.is_file() else (),
        curve=read_json(curve) if curve.is_file() else {},
        requests=_lines(folder / LOG),
        muse=_muse(folder),
    )


def queue(folder: Path) -> QueueView | None:
    """The folder of obeyed requests as a report sees it without an audit; None where it is audited, or is none."""
    run = RunFolder(folder)
    if _audited(run) or not (folder / LOG).is_file():
        return None
    curve = folder / CURVE
    return QueueView(
        folder.name,
        tuple(_lines(folder / LOG)),
        read_json(curve) if curve.is_file() else {},
        _information(run),
        len(_audits(folder)),
        _muse(folder),
    )


def check(folders: Sequence[Path]) -> None:
    """Raises InputError where no report can be made of these folders."""
    if len(folders) != 1 or queue(folders[0]) is None:
        for folder in folders:
            view(folder)


def report(folders: Sequence[Path], out: Path, title: str | None = None) -> Path:
    """Write the report of one run, or of several side by side, as one HTML file; of requests without an audit too."""
    obeyed = queue(folders[0]) if len(folders) == 1 else None
    if obeyed is not None:
        write_atomic(out, queue_page.render(obeyed, title or f"Deletion requests: {obeyed.name}"))
    else:
        views = [view(folder) for folder in folders]
        write_atomic(out, render(views, title or "Forgetting audit: " + ", ".join(item.name for item in views)))
    for folder in folders:
        if out.parent.resolve() == folder.resolve():
            RunFolder(folder).record(folder / out.name)
    return out


def _audited(run: RunFolder) -> bool:
    return run.audit.is_file() and run.judgement.is_file()


def _audits(folder: Path) -> list[Path]:
    """The folders of a queue's audits that were finished, in order; () of another run."""
    found = (folder / AUDITS).glob("*/judgement.json") if (folder / LOG).is_file() else ()
    return sorted(file.parent for file in found)


def _muse(folder: Path) -> tuple[MuseTable, ...]:
    """MUSE's figures of a queue's audits, each called by how many requests were obeyed."""
    found = []
    for audit in _audits(folder):
        file, asked = RunFolder(audit).audit, audit / "audit.yaml"
        if file.is_file() and asked.is_file() and "muse" in asked.read_text(encoding="utf-8"):
            found.append((audit.name.lstrip("0"), _lean(file)))
    return sustainability(found)


def _lean(file: Path) -> Evidence:
    """Evidence without the scores of single records but those that were to be forgotten, of which it is counted how
    many there are: a queue may have hundreds of audits."""
    data = read_json(file)
    try:
        asked = [item for item in data["measurements"] if (item["subject"], item["records"]) == (AUDITED, FORGET)]
        return Evidence.from_dict({**data, "measurements": asked[:1]})
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError("run", str(file), "the plain data of an audit (audit.json)") from error


def _information(run: RunFolder) -> dict[str, Any]:
    """What the run was asked for and how it went."""
    found: dict[str, Any] = read_json(run.manifest) if run.manifest.is_file() else {}
    found.pop("outputs", None)
    if run.config.is_file():
        found = {**yaml.safe_load(run.config.read_text(encoding="utf-8")), **found}
    return found


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
