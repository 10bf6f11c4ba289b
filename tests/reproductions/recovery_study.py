"""What rounding brings back after each method, at small and at large steps, on a model that lies on the INT4 grid.

    python -m tests.reproductions.recovery_study [--seeds 3]

goes on where it was cut off: rows are kept in results/recovery.jsonl as they are found, and the table and the plot are
made of them (results/recovery.md, recovery.png). Budget: at most 120 updates of 16 records of each role for each of
(methods x 2 rates x seeds).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch
from scipy.stats import spearmanr

from remanent.core.catalogue import build, methods
from remanent.core.files import write_atomic
from remanent.core.method import At, Method
from remanent.core.schedule import Ramp
from remanent.data.encode import encode_all
from remanent.data.refusals import PREFERRED
from remanent.errors import RemanentError
from remanent.models.lora import add_lora

from .recovery import POINTS, find, snapped_of
from .study_rows import RESULTS, Row, Rows, markdown, mean_and_range
from .world import State, World

RATES = {"small": 3e-4, "large": 3e-3}
STEPS = 120
BOTH = ("full", "int4")
# What takes a rounded point is stopped there as well.
ROUNDED = {"durableun-saf", "durable", "flat-durable", "as-stranger"}
# Methods of other runs (retrain), of sequences (fit), or that only make their model at the end.
LEFT_OUT = {"retrain", "fit"}
# durable with NPO's weights, beside which it stands.
SETTINGS = {"rmu": {"layer": 1}, "durableun-saf": {"alpha": 1.0}, "durable": {"retain_weight": 1.0}}


def ways() -> dict[str, Method]:
    """Every unlearning method of the catalogue, by name, and plain NPO on a LoRA."""
    found = {}
    for name, entry in methods().items():
        if entry.system.family != "unlearning" or name in LEFT_OUT:
            continue
        method = build(name, SETTINGS.get(name))
        # The rule may end a run before a ramp would have begun.
        points = [replace(p, weight=p.weight.stop) if isinstance(p.weight, Ramp) else p for p in method.places]
        found[name] = replace(method, points=points)
    found["npo, LoRA"] = found["npo"]
    found["durable, no directions"] = build("durable", {**SETTINGS["durable"], "directions": 0})
    flat = {"around": "ascent", "rho": 0.1}
    found["flat-npo, radius 0.1"] = build("flat-npo", flat)
    found["flat-npo, radius 0.1, four directions"] = build("flat-npo", {**flat, "directions": 4})
    found["npo, forget and retain rounded"] = replace(found["npo"], points=[*found["npo"].places, At(POINTS["int4"])])
    return found


def unlearned(world: World, snapped: State, name: str, method: Method, rate: float, seed: int) -> tuple[State, Row]:
    """A state after a method, and how its run ended."""
    method = replace(
        method,
        recipe=replace(
            method.recipe, steps=STEPS, epochs=1.0, learning_rate=rate, batch_size=16, schedule="constant", warmup=0.0
        ),
    )
    roles = {role: role for role in method.roles if role in PREFERRED} | {"forget": "forget", "retain": "retain-train"}
    points = [POINTS[point] for point in (BOTH if name.split(",")[0] in ROUNDED or "rounded" in name else ("full",))]
    whole = world.model
    if "LoRA" in name:
        world.put(snapped)
        world.model = add_lora(whole, rank=8, alpha=16, dropout=0.0, seed=seed)
        start: State = world.state()
    else:
        start = snapped
    try:
        state, outcome = world.run(
            start, method, roles, stop_at=points if method.judged_by_rule else (), every=5, seed=seed
        )
        if "LoRA" in name:
            merged = world.model.merge_and_unload()
            state = {key: tensor.detach().clone() for key, tensor in merged.state_dict().items()}
    finally:
        if "LoRA" in name and world.model is not whole:
            world.model.unload()
            world.model = whole
            whole.requires_grad_(True)  # the adapters froze it
    return state, {"stopped": outcome.stopped, "steps": outcome.steps}


LEAST = 0.5  # nats by which forget's NLL must have risen, for a share of it to be something that can come back


def measured(world: World, snapped: State, state: State) -> Row:
    """What is kept of a state: figures, no weights."""
    found = find(world, snapped, state)
    return {
        "forget": dict(found.forget),
        "retain": dict(found.retain),
        "control": dict(found.control),
        "forget_accuracy": dict(found.forget_accuracy),
        "retain_accuracy": dict(found.retain_accuracy),
        "moved": found.moved,
        "known": found.known,
        "recovered": {point: found.recovered(point) for point in POINTS if point != "full"}
        if found.forget["full"] > found.known + LEAST
        else None,
    }


def study(seeds: Sequence[int]) -> Rows:
    """Every row, found now or before."""
    rows = Rows(RESULTS / "recovery.jsonl")
    world = World()
    for role, make in PREFERRED.items():
        try:
            made = make(world.records["forget"], 0, world.records["retain-train"])
            world.encoded[role] = encode_all(made, world.tokenizer)
        except RemanentError:
            continue  # the authors have no false answers
    base = world.base()
    snapped = snapped_of(world, base)
    rows.get("original", lambda: measured(world, snapped, snapped))
    for seed in seeds:
        rows.get(
            f"retrained/{seed}", lambda seed=seed: measured(world, snapped, world.teach(base, "retain", seed=seed))
        )
        for name, method in ways().items():
            if not set(method.roles) <= {*world.encoded, "retain"}:
                continue  # the authors have no such records
            for size, rate in RATES.items():

                def make(name: str = name, method: Method = method, rate: float = rate, seed: int = seed) -> Row:
                    try:
                        state, ended = unlearned(world, snapped, name, method, rate, seed)
                    except RemanentError as error:
                        return {"refused": " ".join(str(error).split())[:200]}
                    return {**ended, **measured(world, snapped, state)}

                rows.get(f"{name}/{size}/{seed}", make)
    return rows


def table(rows: Rows) -> str:
    """Means and ranges over seeds."""
    header = [
        "method",
        "steps",
        "forgot",
        "forget NLL",
        "at int8",
        "at int4-row",
        "control NLL",
        "RA",
        "RA at int4-row",
    ]
    header += ["moved > half a step", "came back at int8", "came back at int4-row"]
    names = list(dict.fromkeys(name.rsplit("/", 1)[0] if "/" in name else name for name in rows.found))
    lines = []
    for name in sorted(names):
        found = [row for key, row in rows.found.items() if key == name or key.rsplit("/", 1)[0] == name]
        done = [row for row in found if "refused" not in row]
        if not done:
            lines.append([name, "", found[0]["refused"], *[""] * 9])
            continue
        forgot = [row["forget"]["full"] - row["control"]["full"] > -0.25 for row in done]
        known = name == "original"
        lines.append(
            [
                name.replace("/", ", "),
                "" if "steps" not in done[0] else f"{sum(row['steps'] for row in done) / len(done):.0f}",
                "" if known else f"{sum(forgot)} of {len(done)}",
                *(f"{sum(row['forget'][point] for row in done) / len(done):.2f}" for point in ("full", "int8", "int4")),
                f"{sum(row['control']['full'] for row in done) / len(done):.2f}",
                *(f"{sum(row['retain_accuracy'][p] for row in done) / len(done):.2f}" for p in ("full", "int4")),
                mean_and_range([row["moved"] for row in done]),
                *(
                    mean_and_range([row["recovered"][point] for row in done if row["recovered"]])
                    for point in ("int8", "int4")
                ),
            ]
        )
    return markdown(header, lines)


def at_every_format(rows: Rows) -> str:
    """What came back at each format, of the runs that were asked there: means and ranges over seeds."""
    groups: dict[str, list[Row]] = {}
    for name, row in sorted(rows.found.items()):
        if len(row.get("recovered") or ()) == len(POINTS) - 1:
            groups.setdefault(name.rsplit("/", 1)[0], []).append(row["recovered"])
    formats = [point for point in POINTS if point != "full"]
    lines = [
        [
            name.replace("/", ", "),
            str(len(found)),
            *(mean_and_range([row[point] for row in found]) for point in formats),
        ]
        for name, found in groups.items()
    ]
    return markdown(["method", "runs", *(str(POINTS[point]) for point in formats)], lines)


def related(rows: Rows) -> tuple[list[Row], str]:
    """Runs that forgot at full precision, and how their recovered share goes with the share of weights that moved."""
    runs = [row for name, row in rows.found.items() if name.count("/") == 2 and row.get("recovered")]
    found = spearmanr([row["moved"] for row in runs], [row["recovered"]["int4"] for row in runs])
    plain = [
        row for row in runs if row["name"].split("/")[0].split(",")[0] not in ROUNDED and "rounded" not in row["name"]
    ]
    alone = spearmanr([row["moved"] for row in plain], [row["recovered"]["int4"] for row in plain])
    return runs, (
        f"Spearman's correlation of the two: {found.statistic:.2f} over {len(runs)} runs, {alone.statistic:.2f} over "
        f"the {len(plain)} without a rounded point."
    )


def plot(runs: Sequence[Row]) -> None:
    """Recovered share against moved share, a dot for each run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for label, colour, chosen in (
        ("small steps", "#1f77b4", "small"),
        ("large steps", "#d62728", "large"),
    ):
        part = [row for row in runs if row["name"].split("/")[1] == chosen]
        axes.scatter(
            [row["moved"] for row in part],
            [row["recovered"]["int4"] for row in part],
            s=18,
            label=label,
            color=colour,
            alpha=0.7,
        )
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("share of linear weights that moved by more than half a step of int4-row")
    axes.set_ylabel("share of the forgotten NLL back at int4-row")
    axes.set_ylim(-0.5, 1.05)
    axes.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "recovery.png", dpi=120, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = study(range(arguments.seeds))
    asked = set(map(str, range(arguments.seeds)))  # more may be there from another call
    rows.found = {name: row for name, row in rows.found.items() if "/" not in name or name.rsplit("/", 1)[1] in asked}
    runs, relation = related(rows)
    plot(runs)
    text = f"""# What rounding brings back, method by method

Made by `python -m tests.reproductions.recovery_study --seeds {arguments.seeds}`: means (and ranges) over seeds, on one
thread; the original lies on the int4-row grid. Answers are scored teacher forced, in nats per token; RA is the token
accuracy on retained records that no method received. A run ends where forget is no better known than unseen records, at
full precision and, for methods with a rounded point, at int4-row; or after {STEPS} updates. Forgot: in how many runs
forget's NLL came within 0.25 nats of the unseen control's. Came back: the share of the forgotten NLL that is gone after
rounding. Small steps are AdamW at {RATES["small"]:g}, large ones at {RATES["large"]:g}.

{table(rows)}

What came back at each format:

{at_every_format(rows)}

{relation} What came back is told of runs whose forget NLL rose by {LEAST:g} nats or more.

![came back against moved](recovery.png)
"""
    write_atomic(RESULTS / "recovery.md", text)
    print(text)


if __name__ == "__main__":
    main()
