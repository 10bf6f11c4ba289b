"""The trilemma: forgotten, kept, and both at every precision and after relearning, on fresh worlds.

    python -m tests.reproductions.trilemma_study [--seeds 3]

goes on where it was cut off (rows in results/trilemma.jsonl; table and plot from them: trilemma.md, trilemma.png).
Settings were chosen on world 100; the worlds reported here, 200 and up, have other authors and other first weights.
"One way", as-stranger's divergence from its aim alone, was its first form; its small steps were added by what world 100
had shown when the others had been judged on world 200; NPO at the worst point, SURE and DurableUn's own, later still,
without a look at any world; as-stranger as it is now by what it did on world 100; durable with directions last, four by
what 1, 2, 4 and 8 did on world 100, and eight; directions without roundings, to see which of the two does it, after
that, without a look at any world; NPO at the worst point with its retain loss at roundings too by what it kept on world
100, when all others had been judged, and with a forget weight of 2, since durable has two losses of each kind; the
divergence on retain last of all, by what weights of 8, 32 and 128 and radii of 0.1, 0.2 and 0.3 did on world 100, and
two of its parts alone, and with the weight that SmolLM2 asks for. The baselines have one rate, NPO's own of the smaller
two. Budget: each way passes at most as many records forward and backward as 300 updates at two points do, the updates
of relearning and passes without a gradient not counted, and a rule ends it before that where forget is within 0.1 nats
of the control.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import AUDITED, ORIGINAL
from remanent.auditing.judgement import PASSED, Judgement
from remanent.core.displacement import Here, Rounding, roundings_in_turn
from remanent.core.episode import Episode
from remanent.core.evaluation import ForgetAtControl
from remanent.core.files import write_atomic
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.method import At, Method
from remanent.data.encode import encode_all
from remanent.data.entity_swap import strangers, unseen
from remanent.unlearning import as_stranger, durable, durableun_saf, flat_durable, flat_npo, npo, simnpo, sure

from .auditor import PRECISIONS, Auditor
from .study_rows import RESULTS, Row, Rows, markdown, mean_and_range
from .world import State, World, spread

FIRST_WORLD = 200
# Declared from the size of the data: authors differ by 0.45 nats, 24 are forgotten and an overlapping attack leaves 12.
CRITERIA = {"epsilon": 0.5, "epsilon_over": 1.0, "upsilon": 0.95, "alpha": 0.05}
RELEARNING = "relearning-unrelated-10,relearning-overlap-10"
RELEARNING_RATE = 1e-3  # at which a model of this size does relearn
MARKERS = (*"os^Dv<>P*Xhdp8H|_1234", (4, 1), (5, 1), (7, 1))
BATCH, STEPS, EVERY, MARGIN = 16, 300, 10, 0.1
# Not judged here: a model that was taught authors alone has no general text, the declared epsilon stands for power, and
# membership asks whether forgetting is overdone, which a line of its own does.
LEFT_OUT = ("general-text", "power", "membership")


@dataclass(frozen=True)
class Way:
    """A way to unlearn.

    Args:
        method: the composition.
        learning_rate: linear to 0 after a short warm-up.
        passes: records that an update passes forward and backward, in batches.
        rounded: whether the rule asks int4-row too.
    """

    method: Method
    learning_rate: float
    passes: int
    rounded: bool = False


def flat_with_roundings(forget_weight: float) -> Method:
    """NPO at the worst point with four directions, whose retain loss is taken at roundings as well."""
    made = flat_npo.method("ascent", rho=0.1, forget_weight=forget_weight, retain_weight=8.0, directions=4)
    return replace(made, points=[*made.points, At(roundings_in_turn("int4-row,int4-g32,nf4"), ("retain",))])


def one_way(**given: Any) -> Method:
    """as-stranger with its divergence from the aim alone, which was its first form."""
    return as_stranger.method(retain_weight=8.0, symmetric=False, **given)


WAYS = {
    "npo": Way(npo.method(), 3e-4, 2),
    "npo, retain x 8": Way(npo.method(retain_weight=8.0), 3e-4, 2),
    "simnpo, margin at the control": Way(simnpo.method(delta=1.1, forget_weight=1.0), 3e-4, 2),
    "npo at the worst point": Way(flat_npo.method("ascent", rho=0.1, retain_weight=8.0), 3e-4, 3),
    "sure": Way(sure.method(retain_weight=8.0), 3e-4, 2),
    "durableun-saf": Way(durableun_saf.method(warmup=0.0), 3e-4, 3, rounded=True),
    "durable": Way(durable.method(), 3e-4, 4, rounded=True),
    "durable, no directions": Way(durable.method(directions=0), 3e-4, 4, rounded=True),
    "durable, eight directions": Way(durable.method(directions=8), 3e-4, 4, rounded=True),
    "npo, retain x 8, four directions": Way(durable.method(roundings=""), 3e-4, 2),
    "npo at the worst point, four directions": Way(
        flat_npo.method("ascent", rho=0.1, retain_weight=8.0, directions=4), 3e-4, 3
    ),
    "npo at the worst point, four directions, retain rounded too": Way(flat_with_roundings(1.0), 3e-4, 4, rounded=True),
    "npo at the worst point, four directions, retain rounded too, forget x 2": Way(
        flat_with_roundings(2.0), 3e-4, 4, rounded=True
    ),
    "npo, divergence on retain x 32": Way(npo.method(retain_loss="kl", retain_weight=32.0), 3e-4, 2),
    "npo at the worst point, divergence x 32": Way(flat_durable.method(retain_weight=32.0, roundings=""), 3e-4, 3),
    "flat-durable, divergence x 32": Way(flat_durable.method(retain_weight=32.0), 3e-4, 4, rounded=True),
    "flat-durable": Way(flat_durable.method(), 3e-4, 4, rounded=True),
    "as-stranger": Way(as_stranger.method(retain_weight=8.0), 1e-3, 4, rounded=True),
    "as-stranger, one way": Way(one_way(), 1e-3, 4, rounded=True),
    "as-stranger, one way, full precision only": Way(one_way(roundings=""), 1e-3, 2),
    "as-stranger, one way, small steps": Way(one_way(), 3e-4, 4, rounded=True),
    "as-stranger, one way, relearning too": Way(
        one_way(relearning_steps=3, relearning_rate=RELEARNING_RATE), 1e-3, 4, rounded=True
    ),
}


def new_world(number: int) -> World:
    """A world with many more authors to keep than to forget, as deletion requests have them."""
    return World(forget=24, retain=160, control=100, background=150, hidden=96, seed=number)


def unlearned(world: World, taught: State, way: Way, seed: int) -> tuple[State, Row]:
    """The state after a way, at its equal share of passes, ended by the rule."""
    world.put(taught)
    method = with_settings(
        way.method,
        steps=STEPS * 4 // way.passes,
        learning_rate=way.learning_rate,
        batch_size=BATCH,
        schedule="linear",
        warmup=0.05,
    )
    roles = {"forget": "forget", "retain": "retain-train", "stranger": "stranger", "unseen": "unseen"}
    data = {role: world.encoded[roles[role]] for role in method.roles}
    asked = {"forget": "forget", "retain": "retain-select", "control": "control-select"}
    rule = ForgetAtControl(
        {role: spread(world.encoded[name], 64) for role, name in asked.items()},
        [Here(), Rounding("int4-row")] if way.rounded else [Here()],
        world.pad_id,
        margin=MARGIN,
        batch_size=64,
    )
    settings = Settings(world.pad_id, seed=seed, evaluate_every=EVERY)
    outcome = run_episode(world.model, method, Episode("erase", "erase", data), settings, rule=rule)
    return world.state(), {"stopped": outcome.stopped, "steps": outcome.best_step}


def judged(auditor: Auditor, world: World, taught: State, state: State) -> Row:
    """The certificate's lines, as plain figures."""
    data = replace(auditor.data, text=world.records["text"])
    at = [*parse_conditions(PRECISIONS), *parse_conditions(RELEARNING, learning_rate=RELEARNING_RATE)[1:]]
    judgement: Judgement = auditor({AUDITED: state, ORIGINAL: taught}, at, data)
    found = [
        {"line": line.name, "at": line.condition, "verdict": line.verdict, "value": line.value, "low": line.low}
        for line in judgement.lines
        if line.name not in LEFT_OUT and line.condition
    ]
    attacked = f"relearning-overlap-{RELEARNING.rsplit('-', 1)[1]}"
    precisions = PRECISIONS.split(",")

    def least(line: str, where: Sequence[str], field: str = "value") -> float:
        return min(item[field] for item in found if item["line"] == line and item["at"] in where)

    return {
        "gap": least("forgotten-relative", precisions),
        "gap_paraphrased": least("forgotten-relative-paraphrased", precisions),
        "gap_relearnt": least("forgotten-relative", [attacked]),
        "kept": least("kept", precisions),
        "kept_at_least": least("kept", precisions, "low"),
        "failed": [f"{item['line']} at {item['at']}: {item['verdict']}" for item in found if item["verdict"] != PASSED],
    }


def study(seeds: int) -> Rows:
    """Every row, found now or before."""
    rows = Rows(RESULTS / "trilemma.jsonl")
    for number in range(FIRST_WORLD, FIRST_WORLD + seeds):
        names = [f"{name}/{number}" for name in ("original", "retrained", *WAYS)]
        if all(name in rows.found for name in names):
            continue
        world = new_world(number)
        for role, make in (("stranger", strangers), ("unseen", unseen)):
            world.encoded[role] = encode_all(make(world.records["forget"]), world.tokenizer)
        base = world.base()
        taught = world.teach(base, "taught")
        with tempfile.TemporaryDirectory() as folder:
            auditor = Auditor(world, CRITERIA, Path(folder))

            def judge(state: State, auditor: Auditor = auditor, world: World = world, taught: State = taught) -> Row:
                return judged(auditor, world, taught, state)

            rows.get(names[0], lambda judge=judge, taught=taught: judge(taught))
            rows.get(names[1], lambda judge=judge, world=world, base=base: judge(world.teach(base, "retain")))
            for name, way in WAYS.items():

                def make_row(way: Way = way, number: int = number, world: World = world, taught: State = taught) -> Row:
                    state, ended = unlearned(world, taught, way, number)
                    return {**ended, **judge(state)}

                rows.get(f"{name}/{number}", make_row)
    return rows


FIGURES = {
    "gap": "worst gap at a precision",
    "gap_paraphrased": "the same, in other words",
    "gap_relearnt": "gap after relearning a half",
    "kept": "kept at the worst precision",
    "kept_at_least": "its lower bound",
}


def of_worlds(rows: Rows, name: str, seeds: int) -> list[Row]:
    """A way's rows, world by world."""
    return [rows.found[f"{name}/{number}"] for number in range(FIRST_WORLD, FIRST_WORLD + seeds)]


def table(rows: Rows, seeds: int) -> str:
    """Means and ranges over worlds."""
    lines = []
    for name in ("original", "retrained", *WAYS):
        found = of_worlds(rows, name, seeds)
        steps = f"{sum(row['steps'] for row in found) / seeds:.0f}" if "steps" in found[0] else ""
        passed = sum(not row["failed"] for row in found)
        lines.append(
            [name, steps, *(mean_and_range([row[key] for row in found]) for key in FIGURES), f"{passed} of {seeds}"]
        )
    return markdown(["way", "updates", *FIGURES.values(), "every judged line PASSED"], lines)


def plot(rows: Rows, seeds: int) -> None:
    """Kept at the worst precision against the worst gap, at precisions and after relearning."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lowest = 0.4  # of the axis: a destroyed model would push all others together
    figure, sides = pyplot.subplots(1, 2, figsize=(10, 5.4), sharey=True, layout="constrained")
    for axes, key, title in zip(
        sides, ("gap", "gap_relearnt"), ("worst of five precisions", "after relearning one half"), strict=True
    ):
        for place, name in enumerate(("retrained", *WAYS)):
            found = of_worlds(rows, name, seeds)
            axes.scatter(
                [row[key] for row in found],
                [max(row["kept"], lowest) for row in found],
                s=34,
                label=name,
                marker=MARKERS[place],
                alpha=0.8,
            )
        axes.axvline(-CRITERIA["epsilon"], color="grey", linestyle=":", linewidth=1)
        axes.axhline(CRITERIA["upsilon"], color="grey", linestyle=":", linewidth=1)
        axes.set_xlabel("forget NLL minus control NLL, nats")
        axes.set_title(title, fontsize=10)
    sides[0].set_ylabel(f"kept at the worst precision ({lowest} or less at the edge)")
    figure.legend(*sides[1].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3)
    figure.savefig(RESULTS / "trilemma.png", dpi=120, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    rows = study(seeds)
    plot(rows, seeds)
    least = [
        f"- {row['name'].replace('/', ', world ')}: {'; '.join(row['failed']) or 'none'}."
        for name in ("retrained", *WAYS)
        for row in of_worlds(rows, name, seeds)
    ]
    text = f"""# The trilemma on fresh worlds

Made by `python -m tests.reproductions.trilemma_study --seeds {seeds}`: means (and ranges) over {seeds} worlds, on one
thread. Each world has 24 authors to forget, 160 to keep, of whom the methods get 80 and the audit 56 others, and 75
unseen ones in the audit, for a Llama of two layers and width 96. Certificates ask epsilon {CRITERIA["epsilon"]:g} and
upsilon {CRITERIA["upsilon"]:g} at full, int8, int4-row, int4-g32 and nf4, and after relearning: 10 updates at
{RELEARNING_RATE:g} on unrelated text, or on half of the forgotten authors, of whom the other half is then asked. Gaps
are forget's NLL minus the control's, in nats: below -{CRITERIA["epsilon"]:g} is not forgotten. Kept is the share that
the certificate judges. Not among the judged lines: {", ".join(LEFT_OUT)}, whose reasons stand in the study.

{table(rows, seeds)}

![kept against forgotten](trilemma.png)

Lines that did not pass:

{chr(10).join(least)}
"""
    write_atomic(RESULTS / "trilemma.md", text)
    print(text)


if __name__ == "__main__":
    main()
