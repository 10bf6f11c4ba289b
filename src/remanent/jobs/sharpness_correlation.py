"""Correlation: what `remanent sharpness` found of several models, held against other figures of theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remanent.core.csv_file import finite_number, read_csv
from remanent.core.files import read_json, write_json
from remanent.core.run_folder import check_writable
from remanent.errors import DataError, InputError, did_you_mean
from remanent.report.correlation import write_report
from remanent.report.sharpness_view import one_figure
from remanent.sharpness.correlation import Measured, study

_OF_ONE_MODEL = ("model", "other", "threads")  # settings in which runs that are compared may differ
_RUN, _GROUP = "run", "group"


def correlate(runs: Sequence[Path], figures: Path, out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Tau of every measure with every figure; writes correlation.json, correlation.csv, report.html and PNGs.

    Args:
        runs: folders of `remanent sharpness`, one for each model, of the same settings.
        figures: a CSV file: a column `run` with the folder or its name, one column for each figure, and where there
            are groups a column `group`. Figures of other runs are not looked at.
        out: the folder.
        seed: of the bootstraps.

    Raises:
        InputError: where a folder is given twice or holds no figures, settings differ, or a run has no row of its own.
        DataError: naming the line and the column of the table that is wrong.
    """
    places = [run.resolve() for run in runs]
    for number, (run, place) in enumerate(zip(runs, places, strict=True)):
        if place in places[:number]:
            raise InputError("run", str(run), f"each folder once; {runs[places.index(place)]} is the same one")
    found = [_read(run) for run in runs]
    for run, other in zip(runs[1:], found[1:], strict=True):
        _check_alike(run, other["settings"], runs[0], found[0]["settings"])
    table = _rows(figures)
    models = []
    taken: dict[str, Path] = {}
    for run, each in zip(runs, found, strict=True):
        name = next((key for key in (str(run), run.resolve().name) if key in table), None)
        if name is None:
            raise InputError("figures", str(figures), f"a row for {run}: {did_you_mean(run.resolve().name, table)}")
        if name in taken:
            raise InputError(
                "figures",
                f"{name} for both {taken[name]} and {run}",
                f"a row for each: name them by folder in column {_RUN}",
            )
        taken[name] = run
        group, row = _figures(figures, *table[name])
        models.append(Measured(str(run), one_figure(each), row, group))
    result = study(models, seed=seed).to_dict()
    check_writable(out)
    write_json(out / "correlation.json", result)
    write_report(result, out)
    return result


def _read(run: Path) -> Mapping[str, Any]:
    file = run / "sharpness.json"
    if not file.is_file():
        raise InputError("run", str(run), "a folder of `remanent sharpness`, with sharpness.json in it")
    found: Mapping[str, Any] = read_json(file)
    return found


def _check_alike(run: Path, settings: Mapping[str, Any], first: Path, expected: Mapping[str, Any]) -> None:
    for name in expected.keys() | settings.keys():
        if name not in _OF_ONE_MODEL and settings.get(name) != expected.get(name):
            raise InputError(
                f"{run}: {name}", settings.get(name), f"{expected.get(name)!r}, as in {first}: figures of unlike "
                "settings are not comparable"
            )  # fmt: skip


def _rows(file: Path) -> dict[str, tuple[int, dict[str, str]]]:
    """Run -> its line, and the other cells."""
    header, rows = read_csv(file, "figures")
    if _RUN not in header or not set(header) - {_RUN, _GROUP}:
        raise InputError("figures", str(file), f"a column '{_RUN}' and at least one column of figures")
    found: dict[str, tuple[int, dict[str, str]]] = {}
    for line, row in enumerate(rows, start=2):
        cells = dict(zip(header, row, strict=True))
        run = cells.pop(_RUN)
        if run in found:
            raise DataError(file, line, _RUN, f"names {run} again; expected one row for each run")
        found[run] = (line, cells)
    return found


def _figures(file: Path, line: int, cells: Mapping[str, str]) -> tuple[str | None, dict[str, float]]:
    """The group and the figures of a row."""
    numbers = {}
    for name, text in cells.items():
        if name == _GROUP:
            continue
        number = finite_number(text)
        if number is None:
            raise DataError(file, line, name, f"is {text[:40]!r}; expected a finite number")
        numbers[name] = number
    return cells.get(_GROUP), numbers
