"""Figures of sharpness as tables show them, from the plain data of sharpness.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from remanent.report.text import number

Row = Mapping[str, Any]
Figure = Mapping[str, float | None]

_MAIN = {
    "sharpness": "loss",
    "trace": "trace",
    "fisher-trace": "trace",
    "gradient-norm": "norm",
    "path": "barrier",
    "noisy-loss": "loss",
    "tangent-kernel": "condition",
}
ERRORS = {"sharpness": "error", "path": "error_barrier"}  # the same of the share of tokens that are not the most likely
_TITLES = {
    "eigenvalues": "top eigenvalue",
    "trace": "trace",
    "spectrum": "mean eigenvalue",
    "fisher": "Fisher trace",
    "gradient": "gradient norm",
    "path": "barrier",
    "stragglers": "straggler",
    "criticality": "straggler by criticality",
    "layers": "sharpest layer",
    "noise": "loss under noise",
    "neurons": "fewest active neurons",
    "kernel": "tangent kernel's condition",
}
_DRAWN_ONLY = ("landscape", "plane")


def named(found: Mapping[str, Any]) -> list[Row]:
    """The rows, each with its `series`: its records, and the precision where it is not full.

    Records go by the last part of their name, and by the whole where another set has the same last part.
    """
    names = list(dict.fromkeys(str(row["data"]) for row in found["rows"]))
    last = {name: name.removesuffix(".jsonl").rpartition("/")[2] for name in names}
    taken = list(last.values())
    short = {name: part if taken.count(part) == 1 else name for name, part in last.items()}

    def series(row: Row) -> str:
        name = short[str(row["data"])]
        return name if row["at"] == "full" else f"{name} at {row['at']}"

    return [{**row, "series": series(row)} for row in found["rows"]]


def one_figure(found: Mapping[str, Any]) -> dict[str, float | None]:
    """What a study of many models takes from one: measure -> its main figure, the loss and errors among them.

    Measures are named with their series where there are several. Plots and layers have no figure that stands for them.
    """
    rows = named(found)
    several = len({row["series"] for row in rows}) > 1
    values: dict[str, float | None] = {}
    for row in rows:
        after = f", {row['series']}" if several else ""
        if (clean := _clean(row)) is not None:
            values.setdefault(f"loss{after}", clean)
        if row["measure"] in (*_MAIN, "eigenvalues", "spectral-density"):
            name = str(row["name"])
            title = _TITLES.get(name, name)
            values[title + after] = main(row)["value"]
            if (error := wrong(row)) is not None:
                values[f"{title}, error{after}"] = error["value"]
    return values


def columns(found: Mapping[str, Any]) -> list[str]:
    """Headings: the records at each precision."""
    return ["", *dict.fromkeys(row["series"] for row in named(found))]


def lines(found: Mapping[str, Any]) -> Iterator[list[str | None]]:
    """A line for each measure that is a figure, the loss itself first."""
    rows = {(row["name"], row["series"]): row for row in named(found)}
    names = dict.fromkeys(name for name, _ in rows if name not in _DRAWN_ONLY)
    about = columns(found)[1:]
    clean = {
        name: next((_clean(rows[key]) for key in rows if key[1] == name and _clean(rows[key])), None) for name in about
    }
    if any(clean.values()):
        yield ["loss", *(significant(clean[name]) for name in about)]
    for name in names:
        of = [rows.get((name, item)) for item in about]
        yield [_TITLES.get(name, name), *map(told, of)]
        errors = [wrong(row) for row in of]
        if any(errors):
            yield [f"{_TITLES.get(name, name)}, error", *(None if item is None else estimate(item) for item in errors)]


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
    if measure == "active-neurons":
        name, share = min(row["layers"].items(), key=lambda item: item[1]["value"])
        return f"{name} {estimate(share)}"
    return estimate(main(row))


def wrong(row: Row | None) -> Figure | None:
    """The figure of errors that stands beside a row's own; None where there is none."""
    found: Figure | None = None if row is None or row["measure"] not in ERRORS else row.get(ERRORS[row["measure"]])
    return found


def main(row: Row) -> Figure:
    """The figure that stands for a row."""
    measure = row["measure"]
    if measure == "eigenvalues":
        first: Figure = row["top"][0]
        return first
    found: Figure = row["mean"] if measure == "spectral-density" else row[_MAIN[measure]]
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
    if row["measure"] == "sharpness" and not row["definition"].get("normalized"):
        clean: float = row["clean"]
        return clean
    return row["loss"] if row["measure"] == "eigenvalues" else None
