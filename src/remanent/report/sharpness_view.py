"""Figures of sharpness as tables show them, from the plain data of sharpness.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from remanent.report.text import number

Row = Mapping[str, Any]
Figure = Mapping[str, float | None]

_MAIN = {"sharpness": "loss", "trace": "trace", "fisher-trace": "trace", "gradient-norm": "norm", "path": "barrier"}
_TITLES = {
    "eigenvalues": "top eigenvalue",
    "trace": "trace",
    "spectrum": "eigenvalues below 0",
    "fisher": "Fisher trace",
    "gradient": "gradient norm",
    "path": "barrier",
    "stragglers": "straggler",
    "layers": "sharpest layer",
}
_DRAWN_ONLY = ("landscape", "plane")


def places(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(records, precision) in order."""
    return list(dict.fromkeys((row["data"], row["at"]) for row in found["rows"]))


def measures(found: Mapping[str, Any]) -> list[str]:
    """Names of what has a column, in order."""
    return list(dict.fromkeys(row["name"] for row in found["rows"] if row["name"] not in _DRAWN_ONLY))


def columns(found: Mapping[str, Any]) -> list[str]:
    """Headings."""
    return ["records", "at", "loss", *(_TITLES.get(name, name) for name in measures(found))]


def lines(found: Mapping[str, Any]) -> Iterator[list[str | None]]:
    """A line for each set of records and precision."""
    for data, at in places(found):
        rows = {row["name"]: row for row in found["rows"] if (row["data"], row["at"]) == (data, at)}
        clean = next((_clean(row) for row in rows.values() if _clean(row) is not None), None)
        yield [data, at, significant(clean), *(told(rows.get(name)) for name in measures(found))]


def told(row: Row | None) -> str | None:
    """A measure's main figure with its interval, or the layer that it names."""
    if row is None:
        return None
    measure = row["measure"]
    if measure == "stragglers":
        name, score = next(iter(row["scores"].items()))
        return f"{name} {estimate(score)}"
    if measure == "layerwise":
        name, layer = max(row["layers"].items(), key=lambda item: item[1]["loss"]["value"] or 0.0)
        return f"{name} {estimate(layer['loss'])}"
    return estimate(main(row))


def main(row: Row) -> Figure:
    """The figure that stands for a row."""
    measure = row["measure"]
    if measure == "eigenvalues":
        first: Figure = row["top"][0]
        return first
    found: Figure = row["negative"] if measure == "spectral-density" else row[_MAIN[measure]]
    return found


def estimate(item: Figure) -> str:
    """A figure with its ends."""
    ends = [significant(item[end]) for end in ("low", "high")]
    return significant(item["value"]) + (f" [{ends[0]}, {ends[1]}]" if item["low"] is not None else "")


def significant(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return "–"
    return f"{value:.3g}".replace("-", "−") if abs(value) < 1e6 else number(value)


def _clean(row: Row) -> float | None:
    if row["measure"] == "sharpness":
        clean: float = row["clean"]
        return clean
    return row["loss"] if row["measure"] == "eigenvalues" else None
