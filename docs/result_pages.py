"""The site's measured figures: what the studies' rows say of each method, on its page, and their tables and plots."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.append(str(Path(__file__).parents[1]))
from tests.reproductions.smollm2_report import BUDGET, FIGURES, figures, grouped, shown
from tests.reproductions.study_rows import EPSILON, RESULTS, mean_and_interval, mean_and_range
from tests.reproductions.study_rows import markdown as table  # a page's own text goes by that name here

_TABLE = RESULTS / "all_methods.md"
_PLOTS = ("recovery.png", "trilemma.png", "all_methods.png")
_IN_REPOSITORY = "../tests/reproductions/results/"
_FIGURES = {"gap": "+.2f", "relearnt": "+.2f", "kept": ".2f"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the studies' plots, and the table of all methods as a page."""
    for name in _PLOTS:
        if (RESULTS / name).is_file():
            files.append(File.generated(config, name, abs_src_path=str(RESULTS / name)))
    if _TABLE.is_file():
        files.append(File.generated(config, "all-methods.md", abs_src_path=str(_TABLE)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put a method's rows at the end of its page; lead to the plots."""
    for plot in _PLOTS:
        markdown = markdown.replace(f"]({_IN_REPOSITORY}{plot})", f"]({plot})")
    folder, _, name = page.file.src_uri.removesuffix(".md").rpartition("/")
    text = beside_others(name) if folder == "methods" else ""
    return f"{markdown.rstrip()}\n\n{text}" if text else markdown


def beside_others(name: str) -> str:
    """A method's rows in the table of all methods, on SmolLM2 and in that of recovery; "" where it is in none."""
    parts = []
    if _TABLE.is_file() and (found := _by_data(name)):
        header = ["records", "learning rate", "gap at the worst precision", "after relearning", "kept", "forgotten"]
        lines = []
        for data, rows in found.items():
            cells = [mean_and_interval([row[key] for row in rows], form) for key, form in _FIGURES.items()]
            forgot = sum(row["gap"] >= -EPSILON for row in rows)
            rate = f"{rows[0]['rate']:g}" if "rate" in rows[0] else "none"
            lines.append([data, rate, *cells, f"{forgot} of {len(rows)}"])
        parts.append(
            "On small models, at one budget of passes with every other method "
            "([all methods](../all-methods.md)); mean and 95% interval over worlds, gaps to unseen records in nats:"
            "\n\n" + table(header, lines)
        )
    real = _on_smollm2(name)
    if real:
        parts.append(real)
    back = []
    for steps in ("small", "large"):
        rows = [row for row in _rows("recovery.jsonl") if row["name"].startswith(f"{name}/{steps}/")]
        shares = [row["recovered"]["int4"] for row in rows if row.get("recovered")]
        if len(shares) > 1:
            back.append(f"{mean_and_range(shares)} after {steps} steps")
    if back:
        parts.append(
            "Rounding to int4-row gave back this share of the forgotten NLL, on a small model that lies on the "
            f"format's grid (mean, least and largest over seeds; [the study](../study.md)): {'; '.join(back)}."
        )
    return "\n\n".join(parts) + "\n" if parts else ""


def _on_smollm2(name: str) -> str:
    """A method's rows on SmolLM2, and those of what it is without one of its parts; "" where it has none."""
    header = ["records", "way", "seeds", "gap at the worst precision", "kept at the worst", "gap after relearning"]
    lines = []
    for (world, way), rows in grouped(_rows("smollm2.jsonl")).items():
        if rows[0]["method"] == name:
            found = [figures(row) for row in rows]
            lines.append([world, way, str(len(rows)), *(shown(found, key) for key in FIGURES)])
    if not lines:
        return ""
    return (
        f"On SmolLM2-135M, {BUDGET} records passed at most, ended where the forgotten is as unlikely as the unseen; "
        "one taught model for each kind of records, seeds of unlearning; mean, least and largest, gaps in nats "
        "(`python -m tests.reproductions.smollm2_study`, `tests/reproductions/results/smollm2.md`):\n\n"
        + table(header, lines)
    )


def _by_data(name: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in _rows("all_methods.jsonl"):
        data, *between, _ = row["name"].split("/")
        if between == [name] and "refused" not in row:
            found.setdefault(data, []).append(row)
    return {data: rows for data, rows in found.items() if len(rows) > 1}


def _rows(name: str) -> list[dict[str, Any]]:
    file = RESULTS / name
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
