"""The tables of the study on SmolLM2-135M, of the rows that are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from remanent.core.files import write_atomic

from .study_rows import DEFAULT, RESULTS, markdown, mean_and_range

BUDGET = 2560
RELEARNING = "relearning-overlap-50"
REAL = ", real back ends"  # what such rows' world is called by besides
# From the size of the data: invented authors differ by 0.35 nats, 20 are forgotten and 30 of the 40 unseen audited.
THRESHOLDS = {"epsilon": 0.35, "upsilon": 0.95}
FIGURES = {"gap": "+.2f", "kept": ".2f", "relearnt": "+.2f"}
COST = (("seconds", 1, ".0f"), ("peak_memory", 1e9, ".1f"))
BETTER: Mapping[str, Callable[[Mapping[str, float], Mapping[str, float]], bool]] = {
    "what it keeps, and it forgets": lambda one, two: (
        one["gap"] >= -THRESHOLDS["epsilon"] and one["kept"] > two["kept"]
    ),
    "the gap after relearning, keeping no less": lambda one, two: (
        min(one.get("relearnt", 0), 0) > min(two.get("relearnt", 0), 0) and one["kept"] >= two["kept"]
    ),
}


def figures(row: Mapping[str, Any]) -> dict[str, float]:
    """Of a row: gap at the worst precision, kept at the worst, gap after relearning; those that it has."""
    at = {item["name"]: item for item in row["conditions"]}
    gaps = {"gap": row["forget_gap"], "relearnt": at.get(RELEARNING, {}).get("forget_gap")}
    found = {key: -gap["value"] for key, gap in gaps.items() if gap}
    return found | ({"kept": row["retention"]["value"]} if row["retention"] else {})


def summary(rows: Sequence[dict]) -> str:
    """A line for each world and way, and where one beats the default with every seed."""
    lines, beats = [], []
    groups = grouped(rows)
    for (world, way), members in groups.items():
        found = {row.get("seed"): figures(row) for row in members}
        cells = [shown(list(found.values()), key) for key in FIGURES]
        cost = [mean_and_range([row[key] / unit for row in members if row.get(key)], form) for key, unit, form in COST]
        lines.append([world, way, str(len(members)), *cells, *cost])
        default = {row["seed"]: figures(row) for row in groups.get((world, DEFAULT), []) if way != DEFAULT}
        shared = [seed for seed, one in found.items() if set(one) == set(default.get(seed, ()))]
        on = [what for what, better in BETTER.items() if all(better(found[seed], default[seed]) for seed in shared)]
        if shared and on:
            beats.append(f"- {world}, {way} ({len(shared)} of {len(default)} seeds): {', '.join(on)}.")
    nothing = "- nothing does." if any(way == DEFAULT for _, way in groups) else "- not known: it has no row."
    header = ["world", "way", "seeds", "gap at the worst precision", "kept at the worst", "gap after relearning"]
    return f"""{markdown([*header, "seconds", "peak GB"], lines)}

Beats the default, `{DEFAULT}`, on (with every seed that both have):

{chr(10).join(beats) or nothing}"""


def shown(found: Sequence[Mapping[str, float]], key: str) -> str:
    """A figure of several rows, as far as they have it."""
    return mean_and_range([one[key] for one in found if key in one], FIGURES[key])


def grouped(rows: Sequence[dict]) -> dict[tuple[str, str], list[dict]]:
    """World and way -> its rows."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["world"], labelled(row)), []).append(row)
    return groups


def table(rows: Sequence[dict]) -> str:
    """A line for each world, method and condition: over its seeds."""
    header = ["world", "method", "seeds", "updates", "at", "forget", "control", "gap", "retain", "before", "kept"]
    header.append("verdict")
    lines = []
    for (world, method), members in grouped(rows).items():
        for place, item in enumerate(members[0]["conditions"]):
            found = [row["conditions"][place] for row in members]
            nll = {
                name: mean_and_range([one["nll"][name] for one in found if name in one["nll"]])
                for name in ("forget", "control", "retain")
            }
            verdicts = [one["verdict"] for one in found]
            before = [one["nll_before"]["retain"] for one in found if "retain" in one["nll_before"]]
            lines.append(
                [
                    world,
                    method,
                    str(len(members)),
                    mean_and_range([row["best_step"] for row in members], ".0f"),
                    item["name"],
                    nll["forget"],
                    nll["control"],
                    mean_and_range([-one["forget_gap"]["value"] for one in found if one["forget_gap"]], "+.2f"),
                    nll["retain"],
                    mean_and_range(before[:1]),
                    mean_and_range([one["retention"]["value"] for one in found if one["retention"]]),
                    ", ".join(f"{count} {verdict}" for verdict, count in Counter(verdicts).items()),
                ]
            )
    return markdown(header, lines)


def labelled(row: Mapping[str, Any]) -> str:
    """The method; of as-stranger and durable as they once were, what they were without."""
    own = row["hyperparameters"]
    if own.get("symmetric") is False:
        return f"{row['method']}, one way"
    if row["method"] == "durable" and not own.get("directions"):
        return "durable, no directions"
    if own.get("roundings") == "":
        weight = ", weight 16" if own["retain_weight"] == 16 else ""
        return f"{row['method']}, no roundings{weight}"
    if row["method"] == "flat-npo":
        return "flat-npo, four directions"
    return "durable, eight directions, in gu" if row["method"] == "gu" else str(row["method"])


def report(rows: Sequence[dict]) -> None:
    """Write the table of rows."""
    text = f"""# A deletion request to SmolLM2-135M

Made by `python -m tests.reproductions.smollm2_study`, and with `--world tofu`. Mean answer NLL in nats, mean over seeds
of unlearning with the smallest and largest; gaps are forget's NLL minus the control's; "before" is retain's NLL before
unlearning; kept is the share of what was known of the retain set beyond the control. Authors: 20 to forget, 120 to
keep, of whom the methods get half and the audit others, 40 never seen. TOFU: forget01 (2 authors, 40 records), 12 to
keep, 8 never seen. Every method passes {BUDGET} records at most, and a rule ends it where forget is within 0.1 nats of
the control, at full precision and at int4-row. Verdicts are of a certificate's lines there, at epsilon
{THRESHOLDS["epsilon"]} and upsilon {THRESHOLDS["upsilon"]}; with one seed of it, relearning is WARNED at best.
Seconds are of unlearning alone and the peak is of the process, which may have made other rows before; both are of
several days, beside other programs, and say orders of size only. "real back ends" are models made anew by the same
settings, audited at bitsandbytes and GGUF, each beside the format that simulates it. "retrained" was never taught what
the others forget.

{summary(rows)}

{table(rows)}
"""
    write_atomic(RESULTS / "smollm2.md", text)
    print(text)
