"""Every unlearning method of the catalogue on one budget of passes, on small models that really learnt their records.

    python -m tests.reproductions.all_methods [--worlds 3] [--data authors,tofu]

goes on where it was cut off: rows are kept in results/all_methods.jsonl as they are found, and the table and the plot
are made of them (results/all_methods.md, all_methods.png). A run passes at most BUDGET records forward and backward,
counted at every point together, and a rule ends it before that where forget is no better known than unseen records at
full precision and at int4-row. Learning rates are chosen for each method on world 100, by the rule that the table then
judges; the worlds of the table, 200 and up, have other records and other first weights. Edits have no rate and run with
their defaults. TOFU's files are looked for in REMANENT_DATA, or beside the repository in shared/data.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from remanent.auditing.condition import Condition, parse_conditions
from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, Evidence
from remanent.auditing.judge import judge
from remanent.core.catalogue import build, build_edit, edits, unlearners
from remanent.core.displacement import Here, Rounding
from remanent.core.edit import EditSettings
from remanent.core.files import write_atomic
from remanent.core.method import Method
from remanent.core.peak_memory import peak_memory
from remanent.data.encode import encode_all, pad_id
from remanent.data.general_text import general_text
from remanent.data.record import Record
from remanent.data.refusals import PREFERRED
from remanent.data.splits import CONTROL_SHARES, RETAIN_SHARES, split_by_group
from remanent.data.tofu import tofu
from remanent.errors import DivergedError, InputError, RemanentError, UnsupportedError
from remanent.jobs.sweep_space import passes
from remanent.models.tiny import tiny

from .auditor import Auditor
from .study_rows import EPSILON, RESULTS, Row, Rows, data_folder
from .world import State, World

BUDGET, BATCH, EVERY = 1920, 16, 2  # 60 updates with a forget and a retain batch at one point
# On world 100 a dozen methods hardly forget at the third, and gradient ascent overdoes it at the second.
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
TUNED_ON, FIRST_WORLD = 100, 200
UPSILON = 0.9
PRECISIONS = "full,int8,int4-row,nf4"
ATTACK, ATTACK_RATE = "relearning-overlap-10", 1e-3  # a rate at which a model of this size does relearn
RULE = (Here(), Rounding("int4-row"))
# What a model of two layers and width 64 asks for; everything else is a method's default.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "rmu": {"layer": 1},
    "alphaedit-projection": {"rank": 32},
    "fit": {"layers": 1},
    "gu": {"layers": 1},
}
REFERENCES = ("original", "retrain")


class TofuWorld(World):
    """TOFU's forget01, two authors, with others of TOFU to keep and to stay unseen, on a small Llama made for it.

    Args:
        folder: of TOFU's files.
        seed: deals the authors to keep and to stay unseen, and draws the first weights.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        forget = tofu("forget01_perturbed", folder)
        groups: dict[str, list[Record]] = {}
        for record in tofu("retain90", folder):
            groups.setdefault(record.group, []).append(record)
        order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
        dealt = [list(groups.values())[index] for index in order]
        parts = {"retain": dealt[:10], "control": dealt[10:18], "background": dealt[18:42]}
        self.records = {name: [record for group in part for record in group] for name, part in parts.items()}
        self.records |= {"forget": forget, "text": general_text()[:4]}
        self.records["taught"] = [*forget, *self.records["retain"]]
        for role, shares in (("retain", RETAIN_SHARES), ("control", CONTROL_SHARES)):
            for side, records in split_by_group(self.records[role], shares, seed).items():
                self.records[f"{role}-{side}"] = records
        made = tiny(
            [record for part in self.records.values() for record in part], hidden=64, vocabulary=1024, seed=seed
        )
        self.model, self.tokenizer = made.model, made.tokenizer
        self.pad_id = pad_id(self.tokenizer)
        self.encoded = {name: encode_all(records, self.tokenizer) for name, records in self.records.items()}
        self.blank = self.state()


def new_world(data: str, number: int) -> World:
    """A world of a kind, with the records that some methods make from those to be forgotten."""
    if data == "tofu":
        folder = tofu_folder()
        assert folder is not None
        world: World = TofuWorld(folder, number)
    else:
        world = World(forget=24, retain=64, control=40, background=100, seed=number)
    for role, make in PREFERRED.items():
        try:
            world.encoded[role] = encode_all(
                make(world.records["forget"], number, world.records["retain-train"]), world.tokenizer
            )
        except RemanentError:
            continue  # these records have no wrong answers, or no entities to swap
    return world


def tofu_folder() -> Path | None:
    """Where TOFU's files are; None where they are not."""
    folder = data_folder() / "tofu"
    return folder if (folder / "full.jsonl").is_file() and (folder / "forget01_perturbed.jsonl").is_file() else None


def names() -> list[str]:
    """Every method and edit that makes a model forget, but retraining, which is a reference."""
    return [name for name in unlearners() if name != "retrain"]


def within_budget(method: Method, sizes: Mapping[str, int]) -> int:
    """The most updates that the budget allows. Raises InputError where it allows none."""
    found = bisect_right(range(1, BUDGET), BUDGET, key=lambda steps: passes(method, sizes, steps, BATCH))
    if found == 0:
        raise InputError("BUDGET", BUDGET, f"at least {passes(method, sizes, 1, BATCH)} passes, the least of a run")
    return found


def trained(world: World, taught: State, name: str, rate: float, seed: int) -> tuple[State, Row]:
    """The state after a method, and what it cost. Raises RemanentError where the method cannot be run here."""
    method = build(name, SETTINGS.get(name))
    roles = {role: role for role in method.roles} | {"forget": "forget", "retain": "retain-train"}
    for role in method.roles:
        if roles[role] not in world.encoded:
            raise UnsupportedError(f"the records give it no '{role}'")
    sizes = {role: len(world.encoded[roles[role]]) for role in {"forget", *method.roles}}
    steps = within_budget(method, sizes)
    recipe = replace(
        method.recipe, steps=steps, epochs=1.0, learning_rate=rate, batch_size=BATCH, schedule="linear", warmup=0.05
    )
    peak, began = peak_memory(), time.process_time()
    state, outcome = world.run(
        taught,
        replace(method, recipe=recipe),
        roles,
        stop_at=RULE if method.judged_by_rule else (),
        every=EVERY,
        seed=seed,
    )
    cost = {"seconds": time.process_time() - began, "peak": peak()}
    passed = passes(method, sizes, outcome.steps, BATCH)
    return state, {**cost, "passes": passed, "steps": outcome.best_step, "planned": steps, "rate": rate}


def edited(world: World, taught: State, name: str, seed: int) -> Row:
    """Edit a copy of the world's model, which the world then has, and say what it cost."""
    edit = build_edit(name, SETTINGS.get(name))
    roles = {"forget": "forget", "retain": "retain-train"}
    sizes = {role: len(world.encoded[roles[role]]) for role in edit.roles}
    passed = edit.passes(sizes)
    if passed > BUDGET:
        raise UnsupportedError(f"it passes {passed} records, more than the budget")
    world.put(taught)
    world.model = deepcopy(world.model)
    settings = EditSettings(
        world.pad_id, seed, tokens=lambda text: list(world.tokenizer(text, add_special_tokens=False)["input_ids"])
    )
    peak, began = peak_memory(), time.process_time()
    edit.edit(world.model, {role: world.encoded[roles[role]] for role in edit.roles}, settings)
    return {"seconds": time.process_time() - began, "peak": peak(), "passes": passed}


def measured(auditor: Auditor, taught: State, state: State) -> Row:
    """What is found at the precisions and after relearning; gaps are NLL of forget minus that of the unseen."""
    at: list[Condition] = [*parse_conditions(PRECISIONS), *parse_conditions(ATTACK, learning_rate=ATTACK_RATE)[-1:]]
    evidence = auditor.evidence({AUDITED: state, ORIGINAL: taught}, at)
    judgement = judge(evidence)

    def found(line: str) -> dict[str, float]:
        return {item.condition: item.value for item in judgement.lines if item.name == line and item.condition}

    gaps, kept = found("forgotten-relative"), found("kept")
    precisions = PRECISIONS.split(",")
    worst = min(precisions, key=lambda name: gaps[name])
    return {
        "gap": gaps[worst],
        "worst": worst,
        "gap_full": gaps["full"],
        "forget": nll(evidence, worst, FORGET),
        "control": nll(evidence, worst, CONTROL),
        "relearnt": gaps[ATTACK],
        "kept": min(kept[name] for name in precisions),
    }


def nll(evidence: Evidence, condition: str, records: str) -> float:
    """Mean answer NLL of the audited model, in nats per token."""
    item = evidence.find(AUDITED, condition, records, None)
    assert item is not None
    return item.mean_nll


def in_short(world: World, state: State) -> dict[str, dict[str, float]]:
    """NLL of the splits that no table shows, at each point of the rule."""
    sets = {"forget": "forget", "retain": "retain-select", "control": "control-select"}
    return {str(point): {name: world.nll(state, split, point) for name, split in sets.items()} for point in RULE}


def judged_in_short(now: Mapping[str, Mapping[str, float]], before: Mapping[str, Mapping[str, float]]) -> Row:
    """The two figures that choose a rate: gap, and share kept as certificates judge it, each at its worst point."""
    gaps, kept = [], []
    for point, known in now.items():
        original = before[point]
        gaps.append(known["forget"] - known["control"])
        # The smaller of two: a control that got worse would make up for a retain set that did.
        control = min(known["control"], original["control"])
        kept.append((control - known["retain"]) / (original["control"] - original["retain"]))
    return {"gap": min(gaps), "kept": min(kept)}


def tune(rows: Rows, data: str) -> None:
    """A row for each method and rate, on a world of its own."""
    asked = [(name, rate) for name in names() if name not in edits() for rate in RATES]
    if all(f"{data}/rate/{name}/{rate:g}" in rows.found for name, rate in asked):
        return
    world = new_world(data, TUNED_ON)
    taught = world.teach(world.base(), "taught")
    before = in_short(world, taught)
    for name, rate in asked:

        def make(name: str = name, rate: float = rate) -> Row:
            try:
                state, _ = trained(world, taught, name, rate, TUNED_ON)
            except RemanentError as error:
                return refused(error)
            return judged_in_short(in_short(world, state), before)

        rows.get(f"{data}/rate/{name}/{rate:g}", make)


def chosen_rate(rows: Rows, data: str, name: str) -> float | None:
    """The rate that keeps most of those that forget within epsilon, else the one that forgets most; None where the
    method cannot be run."""
    found = {rate: rows.found[f"{data}/rate/{name}/{rate:g}"] for rate in RATES}
    able = {rate: row for rate, row in found.items() if "refused" not in row}
    if not able:
        return None
    forgotten = {rate: row for rate, row in able.items() if row["gap"] >= -EPSILON}
    if forgotten:
        return max(forgotten, key=lambda rate: forgotten[rate]["kept"])
    return max(able, key=lambda rate: able[rate]["gap"])


def refused(error: RemanentError) -> Row:
    """A row without figures: the reason."""
    kind = "diverged: " if isinstance(error, DivergedError) else ""
    return {"refused": kind + " ".join(str(error).split())[:200]}


def study(rows: Rows, data: str, worlds: Sequence[int]) -> None:
    """Every row of a kind of records, found now or before."""
    tune(rows, data)
    for number in worlds:
        if not all(f"{data}/{name}/{number}" in rows.found for name in (*REFERENCES, *names())):
            with tempfile.TemporaryDirectory() as folder:
                one_world(rows, data, number, Path(folder))


def one_world(rows: Rows, data: str, number: int, folder: Path) -> None:
    """The rows of one world."""
    world = new_world(data, number)
    whole = world.model
    base = world.base()
    taught = world.teach(base, "taught")
    auditor = Auditor(world, {"epsilon": EPSILON, "upsilon": UPSILON}, folder)
    auditor.loader(taught)  # before anything stands round the model

    def retrained() -> Row:
        peak, began = peak_memory(), time.process_time()
        state = world.teach(base, "retain", seed=number)
        cost = {"seconds": time.process_time() - began, "peak": peak()}
        return {**cost, **measured(auditor, taught, state)}

    def unlearned(name: str) -> Row:
        try:
            if name in edits():
                cost = edited(world, taught, name, number)
                return {**cost, **measured(auditor, taught, world.state())}
            rate = chosen_rate(rows, data, name)
            if rate is None:
                return {"refused": rows.found[f"{data}/rate/{name}/{RATES[0]:g}"]["refused"]}
            state, cost = trained(world, taught, name, rate, number)
            return {**cost, **measured(auditor, taught, state)}
        except RemanentError as error:
            return refused(error)
        finally:
            world.model = whole

    rows.get(f"{data}/original/{number}", lambda: measured(auditor, taught, taught))
    rows.get(f"{data}/retrain/{number}", retrained)
    for name in names():
        rows.get(f"{data}/{name}/{number}", lambda name=name: unlearned(name))


def main() -> None:
    from .all_methods_report import report

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=3)
    parser.add_argument("--data", default="authors,tofu")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    kinds = asked.data.split(",")
    for data in kinds:
        if data not in ("authors", "tofu"):
            raise InputError("data", data, "authors or tofu")
    if "tofu" in kinds and tofu_folder() is None:
        print("TOFU's files are not there: set REMANENT_DATA to the folder that holds them; authors alone")
        kinds.remove("tofu")
    worlds = range(FIRST_WORLD, FIRST_WORLD + asked.worlds)
    rows = Rows(RESULTS / "all_methods.jsonl")
    for data in kinds:
        study(rows, data, worlds)
        write_atomic(RESULTS / "all_methods.md", report(rows, kinds, worlds))
    print((RESULTS / "all_methods.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
