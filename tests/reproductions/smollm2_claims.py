"""What papers claim of language models, asked of SmolLM2-135M, each with what would falsify it.

    python -m tests.reproductions.smollm2_claims [--claims remind blur ...] [--seeds 0 1 2] [--out runs/smollm2]

goes on where it was cut off (rows in results/smollm2_claims.jsonl; tables: smollm2_claims.md). Questions and figures
are those of the small worlds' reproductions, named beside each table. One taught model; the seed is of unlearning, of
relearning and of what is drawn. The rate of GU's and OFMU's plain sum is the first of RATES at which it forgets up to
the control's level with seed 100; nothing is chosen for GU and OFMU. FIT, NPO and gradient difference have the rate
with the best mean of forget degree and retain utility over seed 100's requests. Rates are thus chosen on the same model
and on some of the same authors, in another order: in sample, for want of another taught model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from remanent.auditing.relearning import RelearningAttack
from remanent.core.batch import Encoded, collate
from remanent.core.displacement import Dampening, Displacement, Here
from remanent.core.edit import EditSettings
from remanent.core.evaluation import known
from remanent.core.files import write_atomic
from remanent.core.importance import answer_nll
from remanent.core.selection import Selection
from remanent.data.record import Record
from remanent.unlearning import grad_diff, gu, guardrail, npo, ofmu, ssd
from remanent.unlearning.pga_projection import PGAProjection

from .fit_table import COLUMNS as FIT_FIGURES
from .fit_table import way as fit_way
from .smollm2_study import OWN
from .smollm2_world import UPPER, WORLD, SmolLM2Codes, SmolLM2Requests, SmolLM2World
from .study_rows import RESULTS, Row, Rows, markdown, mean_and_interval
from .test_blur import SOURCES, recovered
from .test_blur import table as blur_table
from .test_combined import COLUMNS, OffRandom, interval
from .test_combined import run as combined
from .test_pga import as_markdown as pga_table
from .test_pga import of_codes
from .test_remind import aucs, look
from .test_remind import table as remind_table
from .test_ssd import shuffled
from .world import State, spread

DEVELOPMENT = 100
RELEARNING = RelearningAttack("hi", steps=20)  # as many updates as flat_forgetting's
UPDATES, RATES = 34, (5e-5, 2e-4, 8e-4)  # GU's and OFMU's hosts, at two passes an update
DOWN = Selection(tuple(f"{name}mlp.down_proj.*" for name in UPPER.names))
REQUESTS, REQUESTS_TRIED, FIT_RATES, FIT_GIVEN = 10, 5, (1e-5, 5e-5, 2e-4), {"calibrate": True}
REMIND_RECORDS = 48  # of each set
REMIND_PAIRS = (("forget", "control-audit"), ("forget", "retain-audit"))
FIT_WAYS = ("fit", "fit without filter", "fit in all layers", "fit in drawn layers", "npo", "grad-diff")
ALPHAS = (5.0, 10.0, 25.0, 50.0)
COMBINED: Mapping[str, tuple[Callable[[], Any], float]] = {  # passes that an update takes
    "grad-diff": (lambda: replace(grad_diff.method(), select=DOWN), 2),
    "gu": (lambda: replace(gu.method(objective="grad-diff", forget_weight=1.0), select=DOWN), 2),
    "gu, random directions": (
        lambda: replace(gu.method(objective="grad-diff", forget_weight=1.0), select=DOWN, combine=OffRandom()),
        2,
    ),
    "weighted sum, forget 0.3": (lambda: replace(grad_diff.method(forget_weight=0.3), select=DOWN), 2),
    "ofmu": (lambda: replace(ofmu.method(), select=DOWN), 34 / 6),
    "ofmu, no cosine, no penalty": (lambda: replace(ofmu.method(beta=0.0, rho=0.0), select=DOWN), 2),
}


class Study:
    """What the claims share, made when it is asked for.

    Args:
        folder: where the taught models are.
    """

    def __init__(self, folder: Path, rows: Rows) -> None:
        self.folder, self.rows = folder, rows
        self._unlearned: dict[int, State] = {}

    @cached_property
    def world(self) -> SmolLM2World:
        return SmolLM2World(self.folder)

    def unlearned(self, seed: int) -> State:
        """NPO until forget is no better known than unseen records are."""
        if seed not in self._unlearned:
            self._unlearned.clear()  # one is half a gigabyte
            own = OWN["npo"]
            method = replace(npo.method(**own["hyperparameters"]), select=UPPER)
            state, outcome = self.world.unlearn(
                self.world.taught,
                method,
                learning_rate=own["learning_rate"],
                steps=120,
                stop_at=[Here()],
                evaluate_every=10,
                seed=seed,
            )
            assert outcome.stopped, "NPO did not forget within its updates"
            self._unlearned[seed] = state
        return self._unlearned[seed]

    def remind(self, seed: int) -> Row:
        """Pair -> AUCs, of the unlearned model and of the retrained one, whose loss says nothing of the forgotten."""
        states = {"npo": self.unlearned(seed), "retrained": self.world.retrained}
        looks = {"npo": ("npo", False), "npo random": ("npo", True), "retrained": ("retrained", False)}
        sets = ("forget", "retain-audit", "control-audit")
        found = {
            name: look(self.world, states[of], self.world.taught, random, count=12, sets=sets, most=REMIND_RECORDS)
            for name, (of, random) in looks.items()
        }
        return {
            name: {f"{one}|{two}": aucs(scores, one, two) for one, two in REMIND_PAIRS}
            for name, scores in found.items()
        }

    def blur(self, seed: int) -> Row:
        """Model -> set -> what came back, and likeness."""
        states = {"unlearned": self.unlearned(seed), "retrained": self.world.retrained}
        how = {"steps": RELEARNING.steps, "rate": RELEARNING.learning_rate}
        return {
            name: {source: recovered(self.world, state, source, seed, **how) for source in SOURCES}
            for name, state in states.items()
        }

    def combined(self, seed: int) -> Row:
        """Way -> NLLs at the end and where forget was first as unlikely as control."""
        rate = self.rate_of_sums()
        return {"rate": rate} | {name: self._combined(name, rate, seed) for name in COMBINED}

    def rate_of_sums(self) -> float:
        """The first at which the plain sum forgets, with a seed that is in no table."""
        for rate in RATES:
            name = f"development/sum/{rate:g}"
            found = self.rows.get(name, partial(self._combined, "grad-diff", rate, DEVELOPMENT))
            if found["reached"]:
                return rate
        return RATES[-1]

    def _combined(self, name: str, rate: float, seed: int) -> dict[str, float]:
        make, passes = COMBINED[name]
        steps = round(2 * UPDATES / passes)
        return combined(self.world, self.world.taught, make(), steps, rate, seed)

    def ssd(self, seed: int) -> Row:
        """Way -> mean NLL of each set: half of the authors to forget, drawn by the seed, and the kept and unseen."""
        world = self.world
        chosen = self._half_of_the_forgotten(seed)
        forget = [record for record in world.encoded["forget"] if record.group in chosen]
        world.put(world.taught)
        size = len(forget)
        everything = [*world.encoded["forget"], *world.encoded["retain-train"]]
        of_all, of_forget = (
            ssd.importances(world.model, self._batches(part, size, seed), loss=answer_nll)
            for part in (everything, forget)
        )
        asked = {"forget": forget} | {
            name: spread(world.encoded[f"{name}-audit"], 80) for name in ("retain", "control")
        }
        ways: dict[str, Displacement] = {"taught": Here()}
        shares = {}
        for alpha in ALPHAS:
            found = ssd.damped(of_all, of_forget, alpha=alpha)
            ways[f"alpha {alpha:g}"] = found.dampening
            shares[f"alpha {alpha:g}"] = found.counts["damped"] / found.counts["weights"]
            whole = {name: torch.ones_like(value) for name, value in of_all.items()} | found.dampening.factors
            ways[f"alpha {alpha:g}, random weights"] = Dampening(shuffled(whole, seed))
        return {"shares": shares} | {
            name: known(world.model, asked, [point], **world.how)[str(point)] for name, point in ways.items()
        }

    def _half_of_the_forgotten(self, seed: int) -> set[str]:
        people = sorted({record.group for record in self.world.encoded["forget"]})
        order = torch.randperm(len(people), generator=torch.Generator().manual_seed(seed)).tolist()
        return {people[place] for place in order[: len(people) // 2]}

    def guardrail(self, seed: int) -> Row:
        """Way -> mean NLL of the authors that the text names, of as many taught ones that it does not, kept and unseen;
        "strangers" names as many unseen authors in their place."""
        world = self.world
        world.put(world.taught)
        chosen = self._half_of_the_forgotten(seed)
        sides = ("named", "not named")
        asked = {
            side: [record for record in world.encoded["forget"] if (record.group in chosen) == (side == "named")]
            for side in sides
        }
        asked |= {name: spread(world.encoded[f"{name}-audit"], 80) for name in ("retain", "control")}
        unseen = sorted({record.group for record in world.records["control-select"]})
        drawn = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(seed)).tolist()
        texts = {
            "taught": None,
            "guardrail": names_of(world.records["forget"], chosen),
            "strangers": names_of(world.records["control-select"], {unseen[place] for place in drawn[: len(chosen)]}),
        }
        settings = EditSettings(world.pad_id, tokens=lambda text: world.tokenizer(text)["input_ids"])
        found: Row = {}
        for way, text in texts.items():
            edit = None if text is None else guardrail.edit(guardrail.TEXT.replace("{groups}", text))
            undo = None if edit is None else edit.edit(world.model, {"forget": asked["named"]}, settings).undo
            found[way] = known(world.model, asked, [Here()], **world.how)["full"]
            if undo is not None:
                undo.undo()
        return found

    def _batches(self, records: Sequence[Encoded], size: int, seed: int) -> list[Any]:
        order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed)).tolist()
        return [
            collate(records, order[start : start + size], self.world.pad_id) for start in range(0, len(records), size)
        ]

    def fit(self, seed: int) -> Row:
        """Way -> the curve's row at the end."""
        rates = self.rates_of_requests()
        requests = SmolLM2Requests(self.world, seed, REQUESTS)

        def obeyed(way: str) -> Row:
            return requests.obey(fit_way(way, rates.get(way, rates["fit"]), FIT_GIVEN), every=REQUESTS, seed=seed)[-1]

        # Each is a row of its own as well: ten requests to one way take minutes, which a cut must not cost again.
        return {way: self.rows.get(f"requests/{way}/{seed}", partial(obeyed, way)) for way in FIT_WAYS}

    def rates_of_requests(self) -> dict[str, float]:
        """Way -> its rate."""
        found: dict[str, float] = {}
        for name in ("fit", "npo", "grad-diff"):
            ends = {
                rate: self.rows.get(f"development/{name}/{rate:g}", partial(self._development, name, rate))
                for rate in FIT_RATES
            }
            found[name] = max(ends, key=lambda rate: ends[rate]["forget_degree"] + ends[rate]["retain_utility"])
        return found

    def _development(self, name: str, rate: float) -> Row:
        requests = SmolLM2Requests(self.world, DEVELOPMENT, REQUESTS_TRIED)
        return requests.obey(fit_way(name, rate, FIT_GIVEN), every=REQUESTS_TRIED)[-1]

    def pga(self, seed: int) -> Row:
        """Way -> what a probe sees and what is recalled of launch codes, on a model of their own."""
        forms = {
            "hooks": PGAProjection(depths=6),
            "hooks, spectral 3": PGAProjection(depths=6, directions="spectral", rank=3),
        }
        return of_codes(SmolLM2Codes(seed), forms, steps=40, rate=5e-5)


def names_of(records: Sequence[Record], groups: set[str]) -> str:
    """The authors' names, from the questions about where they were born."""
    start, end = "Where was ", " born?"
    asked = [record.question for record in records if record.group in groups]
    return ", ".join(text[len(start) : -len(end)] for text in asked if text.startswith(start) and text.endswith(end))


def guardrail_table(rows: Sequence[Row]) -> str:
    """A line for each way."""
    sets = list(rows[0]["taught"])
    lines = [[way, *(mean_and_interval([row[way][name] for row in rows]) for name in sets)] for way in rows[0]]
    return markdown(["text before the question", *sets], lines)


def nameless(rows: Sequence[Row]) -> list[Row]:
    """The rows as the small worlds' tables take them."""
    return [{key: found for key, found in row.items() if key != "name"} for row in rows]


def combined_table(rows: Sequence[Row]) -> str:
    """A line for each way."""
    lines = []
    for name in COMBINED:
        found = [row[name] for row in rows]
        figures = [interval([item[column] for item in found]) for column in COLUMNS[:3]]
        lines.append([name, *figures, f"{sum(item['reached'] for item in found):.0f} of {len(found)}"])
    return markdown(["way", *COLUMNS], lines)


def ssd_table(rows: Sequence[Row]) -> str:
    """A line for each way."""
    lines = []
    for name in (name for name in rows[0] if name != "shares"):
        share = [row["shares"].get(name.removesuffix(", random weights"), 0.0) for row in rows]
        figures = [[row[name][of] for row in rows] for of in ("forget", "retain", "control")]
        lines.append([name, mean_and_interval(share, ".1e"), *map(mean_and_interval, figures)])
    return markdown(["way", "share damped", "forget", "retain", "control"], lines)


def fit_table(rows: Sequence[Row]) -> str:
    """A line for each way."""
    figures = {name: of for name, of in FIT_FIGURES.items() if "mean" not in name}
    lines = [
        [name, *(mean_and_interval([of([row[name]]) for row in rows]) for of in figures.values())] for name in FIT_WAYS
    ]
    return markdown(["way", *figures], lines)


CLAIMS: Mapping[str, tuple[Callable[[Study, int], Row], Callable[[Sequence[Row]], str], str]] = {
    "remind": (
        Study.remind,
        remind_table,
        "REMIND: does the loss around a text tell more than the loss at it? Falsified where it does not, or where any "
        f"tokens put in do as well (random). As test_remind, with 12 neighbours of each of {REMIND_RECORDS} records of "
        "a set; AUC of the first of a pair.",
    ),
    "blur": (
        Study.blur,
        blur_table,
        f"BLUR: does relearning bring back more, the more its set has in common with what is asked? Falsified where "
        "unrelated text (lo) brings back as much, or the retrained model recovers as much. As test_blur: "
        f"{RELEARNING.steps} updates of {RELEARNING.batch_size} records at {RELEARNING.learning_rate:g}. Nats by which "
        "the asked forgotten records fell, beyond the fall of unseen ones.",
    ),
    "combined": (
        Study.combined,
        combined_table,
        f"GU against random directions, OFMU against a weighted sum, at equal passes: {2 * UPDATES} of 8 records. "
        "Falsified where those keep as much. OFMU is looked at within its rounds, too. As "
        "test_combined, in the feed-forward blocks' last matrices of the upper half. Mean NLL; at control's: where "
        "forget was first as unlikely as the unseen.",
    ),
    "ssd": (
        Study.ssd,
        ssd_table,
        "SSD: half of the authors to forget, drawn by the seed, by one edit. Falsified where the same factors on "
        "random weights forget as selectively, or no alpha forgets and keeps. Importances by batches of 40 records; "
        "mean NLL.",
    ),
    "guardrail": (
        Study.guardrail,
        guardrail_table,
        "Guardrail: half of the authors to forget, drawn by the seed, are named in a text before each question that "
        "asks to withhold them. Falsified where others that were taught too, and are not named, are withheld as much, "
        "or where naming unseen people (strangers) does as much. Mean NLL of the true answers.",
    ),
    "pga": (
        Study.pga,
        pga_table,
        "PGA on launch codes that were learnt by heart in the model's upper half, as test_pga: hooks at 6 depths over "
        "the whole model; training of all weights at all depths, 40 updates at 5e-5. Falsified where random directions "
        "do as well.",
    ),
    "fit": (
        Study.fit,
        fit_table,
        f"FIT and its parts on {REQUESTS} requests of one author each, one in five a repeat, as fit_table with the "
        "paper's 8 layers. Falsified where NPO on all weights keeps as much at as much forgotten, or drawn layers do "
        "as well. F.D. and R.U. against a model that was taught the kept authors alone.",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", nargs="+", default=list(CLAIMS), choices=list(CLAIMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(RESULTS / "smollm2_claims.jsonl")
    study = Study(asked.out / WORLD, rows)
    for seed in asked.seeds:
        for claim in asked.claims:
            rows.get(f"{claim}/{seed}", partial(CLAIMS[claim][0], study, seed))
    report(rows)


def report(rows: Rows) -> None:
    """Write the tables of the claims that have two seeds or more."""
    parts = []
    for claim, (_, table, says) in CLAIMS.items():
        found = [row for name, row in rows.found.items() if name.startswith(f"{claim}/")]
        if len(found) > 1:
            parts.append(f"## {claim}\n\n{says} {len(found)} seeds.\n\n{table(nameless(found))}\n")
    text = f"""# What is claimed of language models, on SmolLM2-135M

Made by `python -m tests.reproductions.smollm2_claims`. One taught model (invented authors, 20 to forget, 120 to keep,
40 never seen, its upper half trained), seeds of unlearning, relearning and draws; for PGA a model for each seed. NLL in
nats, mean over records. Mean over seeds and its 95% interval by Student's t; ± 0.00 where the seed has no part.
Intervals speak of the seeds, on the same records and the same taught model. Arithmetic: {SmolLM2World.precision}.

"""
    write_atomic(RESULTS / "smollm2_claims.md", text + "\n".join(parts))
    print(text + "\n".join(parts))


if __name__ == "__main__":
    main()
