"""The table and the plot of the study of all methods, of the rows that are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .all_methods import (
    ATTACK,
    ATTACK_RATE,
    BUDGET,
    PRECISIONS,
    RATES,
    REFERENCES,
    TUNED_ON,
    UPSILON,
    names,
)
from .study_rows import DEFAULT, EPSILON, RESULTS, Row, Rows, markdown, mean_and_interval

COLUMNS = {
    "forget": "forget NLL",
    "control": "unseen NLL",
    "gap": "gap at the worst precision",
    "gap_full": "gap at full",
    "relearnt": "gap after relearning a half",
    "kept": "kept at the worst precision",
    "seconds": "CPU s",
    "peak": "peak MB",
}


def found_of(rows: Rows, data: str, name: str, worlds: Iterable[int]) -> list[Row]:
    """The rows of a method that are there."""
    asked = [f"{data}/{name}/{number}" for number in worlds]
    return [rows.found[item] for item in asked if item in rows.found]


def table(rows: Rows, data: str, worlds: Sequence[int]) -> str:
    """Means and intervals over worlds; those that forget, by what they keep, before those that do not."""
    lines = []
    placed = []
    for name in [*REFERENCES, *names()]:
        found = [row for row in found_of(rows, data, name, worlds) if "refused" not in row]
        if not found:
            continue
        mean = {key: sum(row[key] for row in found) / len(found) for key in ("gap", "kept")}
        order = (name not in REFERENCES, any(row["gap"] < -EPSILON for row in found), -mean["kept"])
        placed.append((order, name, found))
    for _, name, found in sorted(placed):
        worst = ", ".join(sorted({row["worst"] for row in found}))
        cells = [spelled([row[key] * SCALE.get(key, 1) for row in found if key in row], key) for key in COLUMNS]
        steps = f"{sum(row['steps'] for row in found) / len(found):.0f}" if "steps" in found[0] else ""
        rate = f"{found[0]['rate']:g}" if "rate" in found[0] else ""
        forgot = f"{sum(row['gap'] >= -EPSILON for row in found)} of {len(found)}"
        lines.append([name, rate, steps, *cells[:3], worst, *cells[3:], forgot])
    header = list(COLUMNS.values())
    return markdown(["method", "rate", "updates", *header[:3], "worst at", *header[3:], "forgotten"], lines)


SCALE = {"peak": 1e-6}


def spelled(values: Sequence[float], key: str) -> str:
    """A mean with its interval, where there are several."""
    form = ".0f" if key == "peak" else ".1f" if key == "seconds" else ".2f"
    if key in ("seconds", "peak"):
        return f"{sum(values) / len(values):{form}}" if values else ""
    return mean_and_interval(values, form) if len(values) > 1 else f"{values[0]:{form}}"


def against_the_default(rows: Rows, data: str, worlds: Sequence[int]) -> list[str]:
    """On what each method beats the default in every world: a list for Markdown."""
    better = {
        "what it keeps, and it forgets": lambda one, two: one["gap"] >= -EPSILON and one["kept"] > two["kept"],
        "the gap at the worst precision, keeping no less": lambda one, two: (
            min(one["gap"], 0) > min(two["gap"], 0) and one["kept"] >= two["kept"]
        ),
        "the gap after relearning, keeping no less": lambda one, two: (
            min(one["relearnt"], 0) > min(two["relearnt"], 0) and one["kept"] >= two["kept"]
        ),
    }
    default = found_of(rows, data, DEFAULT, worlds)
    if len(default) < len(worlds):
        return [f"- not known: it has the rows of {len(default)} of {len(worlds)} worlds."]
    lines = []
    for name in names():
        found = found_of(rows, data, name, worlds)
        if name == DEFAULT or not found or len(found) != len(default):
            continue
        if any("refused" in row for row in (*found, *default)):
            continue
        on = [what for what, beats in better.items() if all(map(beats, found, default))]
        if on:
            lines.append(f"- {name}: {', '.join(on)}.")
    return lines


def left_out(rows: Rows, data: str, worlds: Sequence[int]) -> list[str]:
    """Methods without figures, each with its reason: a list for Markdown."""
    lines = []
    for name in names():
        found = found_of(rows, data, name, worlds)
        reasons = dict.fromkeys(row["refused"] for row in found if "refused" in row)
        lines += [f"- {name}: {reason}." for reason in reasons]
    return lines


def plot(rows: Rows, kinds: Sequence[str], worlds: Sequence[int]) -> None:
    """Kept against the gap, at the worst precision and after relearning: a number a method, named beside."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, sides = pyplot.subplots(
        len(kinds), 2, figsize=(11, 4.6 * len(kinds)), sharey="row", layout="constrained", squeeze=False
    )
    drawn = [*REFERENCES, *names()]
    colours = pyplot.colormaps["tab20"]
    for line, data in enumerate(kinds):
        for axes, key, title in zip(
            sides[line], ("gap", "relearnt"), ("worst precision", "after relearning a half"), strict=True
        ):
            for place, name in enumerate(drawn):
                found = [row for row in found_of(rows, data, name, worlds) if "refused" not in row]
                if not found:
                    continue
                left = [min(max(row[key], -2.5), 1.5) for row in found]
                up = [max(row["kept"], -0.2) for row in found]
                colour = "black" if name in REFERENCES else colours(place % 20)
                axes.scatter(left, up, s=12, color=colour, alpha=0.5, marker="s" if name in REFERENCES else "o")
                middle = (sum(left) / len(left), sum(up) / len(up))
                bold = "bold" if name in (DEFAULT, *REFERENCES) else "normal"
                axes.annotate(str(place), middle, (3, 3), textcoords="offset points", fontsize=8, fontweight=bold)
            axes.axvline(-EPSILON, color="grey", linestyle=":", linewidth=1)
            axes.axhline(UPSILON, color="grey", linestyle=":", linewidth=1)
            axes.set_xlabel("forget NLL minus unseen NLL, nats (held to -2.5 and 1.5)")
            axes.set_title(f"{data}: {title}", fontsize=10)
        sides[line][0].set_ylabel("share kept at the worst precision (at least -0.2)")
    told = "   ".join(f"{place} {name}" for place, name in enumerate(drawn))
    figure.supxlabel("\n".join(_wrapped(told, 150)), fontsize=8)
    figure.savefig(RESULTS / "all_methods.png", dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split("   "):
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += f"{word}   "
    return lines


def report(rows: Rows, kinds: Sequence[str], worlds: Sequence[int]) -> str:
    """The table, the plot, and what they say, of what is there."""
    plot(rows, kinds, worlds)
    parts = []
    for data in kinds:
        done = [number for number in worlds if f"{data}/original/{number}" in rows.found]
        if not done:
            continue
        beaten, missing = against_the_default(rows, data, done), left_out(rows, data, done)
        parts.append(f"""## {data}

{table(rows, data, done)}

Beats the default, `{DEFAULT}`, in every world on:

{chr(10).join(beaten) or "- nothing does, CPU time apart."}

Without figures:

{chr(10).join(missing) or "- none."}
""")
    return f"""# All methods on one budget

Made by `python -m tests.reproductions.all_methods --worlds {len(worlds)} --data {",".join(kinds)}`: means and 95%
intervals by Student's t over worlds, on one thread. A world has records and first weights of its own, for a Llama of
two layers and width 64: of the embedded authors 24 to forget, 64 to keep and 40 unseen; of TOFU the two of forget01, 10
to keep and 8 unseen. Every run passes at most {BUDGET} records forward and backward, at every point together and those
before its first update (a mask, a reinforced model) among them, and is ended where forget is no better known than
unseen at full precision and int4-row; its rate is the best of
{" and ".join(f"{rate:g}" for rate in RATES)} on world {TUNED_ON}, which is not in the table. NLL is that of answers, in
nats per token; a gap is forget's minus that of unseen records, at the worst of {PRECISIONS}, and after {ATTACK} at
{ATTACK_RATE:g}: below -{EPSILON:g} it is not forgotten. Kept: the share of what was known beyond the unseen, of
retained records that no method received. Peak: resident memory of the process, its libraries and what ran in it before
included; like seconds it is of several days, so that both tell orders of size only. Forgotten:
worlds with a gap of -{EPSILON:g} or more. References stand first, then what forgets in every world, by what it keeps.

{chr(10).join(parts)}
![kept against forgotten](all_methods.png)
"""
