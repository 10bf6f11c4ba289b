"""What an audit found, shown, and the exit code that follows from it."""

from __future__ import annotations

from pathlib import Path

import typer

from remanent.cli.output import console, print_json
from remanent.jobs.report import view
from remanent.report.terminal import report_data, show
from remanent.report.view import FAILED, NOT_ASSESSABLE


def end_with(folder: Path, json: bool) -> None:
    """Show the audit in a run's folder; exit code 1 where it did not hold or could not be assessed."""
    found = view(folder)
    if json:
        print_json(report_data([found]))
    else:
        show([found], console())
    if found.verdict in (FAILED, NOT_ASSESSABLE):
        raise typer.Exit(1)
