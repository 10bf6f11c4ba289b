"""Does a fine-tune of SmolLM2-135M in transformers.Trainer keep what it knew, with elastic weight consolidation?

    python -m tests.reproductions.ewc_smollm2 [--seeds 0 1 2]

The model is taught eight invented authors, which it is to keep, then eight others. It is asked after each epoch, so
that a way is judged beside what the plain fine-tune has kept when it has learnt as much: whoever learns less forgets
less, without any method. Falsified where no strength lies above the plain fine-tune's own path, or where holding all
weights alike does as well. Strengths are decades, all of them rows. Goes on where it was cut off (rows in
results/ewc_smollm2.jsonl).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from remanent.continual import ewc
from remanent.core.displacement import Here
from remanent.core.episode import Episode
from remanent.core.evaluation import known
from remanent.core.files import write_atomic
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.task import teach
from remanent.data.authors import author_sets
from remanent.data.encode import encode_all, pad_id
from remanent.data.general_text import general_text
from remanent.hf.trainer import MethodTrainer
from remanent.jobs.data import fast_precision
from remanent.models.load import load
from remanent.models.lora import add_lora

from .study_rows import RESULTS, Row, Rows, markdown, mean_and_range

MODEL, BF16 = "smollm2-135m", fast_precision() == "bf16"
STRENGTHS = (1e3, 1e4, 1e5)
RATES = {"full": 1e-4, "LoRA": 1e-3}
WAYS = (
    ("full", "plain", 0.0),
    *(("full", "EWC", strength) for strength in STRENGTHS),
    *(("full", "alike", strength) for strength in STRENGTHS),
    ("LoRA", "plain", 0.0),
    *(("LoRA", "EWC", strength) for strength in STRENGTHS),
)
EPOCHS = 6
Known = dict[str, float]


class World:
    """The model that knows the first authors, and its records. The model is made when it is asked for."""

    def __init__(self, seed: int) -> None:
        authors = author_sets(seed=seed, forget=8, retain=8, control=8, questions=3)
        records = {"first": authors.retain, "second": authors.forget, "control": authors.control}
        self.loaded, self.seed = load(MODEL), seed
        self.pad = pad_id(self.loaded.tokenizer)
        self.sets = {
            name: encode_all(group, self.loaded.tokenizer, 128)
            for name, group in {**records, "text": general_text()[:12]}.items()
        }
        self._held: dict[str, Mapping[str, Any]] = {}

    @cached_property
    def taught(self) -> torch.nn.Module:
        """The model that knows the first."""
        model = self.loaded.model
        lesson = with_settings(teach(), learning_rate=1e-4, epochs=6)
        settings = Settings(self.pad, seed=self.seed, precision=fast_precision(), checkpoint_every=0)
        run_episode(model, lesson, Episode("first", "teach", {"task": self.sets["first"]}), settings)
        return model

    def known(self, model: torch.nn.Module) -> Known:
        """Mean NLL of each set, in nats."""
        with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=BF16):
            return known(model, self.sets, [Here()], pad_id=self.pad)["full"]

    def held(self, model: torch.nn.Module, kind: str) -> Mapping[str, Any]:
        """What EWC remembers of the first authors: their Fisher information in the weights that train."""
        if kind not in self._held:
            method = ewc.method()
            method.remember(model, "first", self.sets["first"])
            self._held[kind] = method.state_dict()
        return self._held[kind]


def row(world: World, kind: str, way: str, strength: float) -> Row:
    """Fine-tune on the second authors, and ask after each epoch."""
    model = deepcopy(world.taught)
    if kind == "LoRA":
        model = add_lora(model, rank=16, alpha=32, dropout=0.0, seed=world.seed)
    method, held = ewc.method(strength), dict(world.held(model, kind))
    curvature: Mapping[str, torch.Tensor] = held["curvature"]
    mean = sum(float(part.sum()) for part in curvature.values()) / sum(part.numel() for part in curvature.values())
    if way == "alike":
        held["curvature"] = {name: torch.full_like(part, mean) for name, part in curvature.items()}
    method.load_state_dict(held)
    path = [world.known(model)]

    class Ask(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            path.append(world.known(model))
            model.train()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            learning_rate=RATES[kind],
            lr_scheduler_type="constant",
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=8,
            max_grad_norm=1.0,
            bf16=BF16,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=world.seed,
        )
        MethodTrainer(
            model,
            method,
            arguments,
            {"task": world.sets["second"]},
            processing_class=world.loaded.tokenizer,
            callbacks=[Ask()],
        ).train()
    return {"kind": kind, "way": way, "strength": strength, "seed": world.seed, "mean": mean, "path": path}


def plain_first(path: list[Known], second: float) -> float:
    """What the plain fine-tune knows of the first where it knows as much of the second, along straight lines."""
    for before, after in pairwise(path):
        if after["second"] <= second <= before["second"]:
            share = (before["second"] - second) / (before["second"] - after["second"])
            return before["first"] + share * (after["first"] - before["first"])
    return path[-1]["first"] if second < path[-1]["second"] else path[0]["first"]


def table(rows: Rows, seeds: list[int]) -> str:
    """Over seeds, a line for each way."""
    header = ["trains", "way", "strength", "first", "second", "text", "first, plain having learnt as much", "kept more"]
    lines = []
    for kind, way, strength in WAYS:
        found = [rows.found[name_of(kind, way, strength, seed)] for seed in seeds]
        plain = [rows.found[name_of(kind, "plain", 0.0, seed)]["path"] for seed in seeds]
        ends = [row["path"][-1] for row in found]
        beside = [plain_first(path, end["second"]) for path, end in zip(plain, ends, strict=True)]
        more = [there - end["first"] for there, end in zip(beside, ends, strict=True)]
        lines.append(
            [
                kind,
                way,
                f"{strength:g}",
                *(mean_and_range([end[name] for end in ends]) for name in ("first", "second", "text")),
                *(("", "") if way == "plain" else (mean_and_range(beside), mean_and_range(more, "+.2f"))),
            ]
        )
    return markdown(header, lines)


def name_of(kind: str, way: str, strength: float, seed: int) -> str:
    """A row's."""
    return f"{kind} | {way} {strength:g} | seed {seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(RESULTS / "ewc_smollm2.jsonl")
    for seed in asked.seeds:
        if all(name_of(*way, seed) in rows.found for way in WAYS):
            continue
        world = World(seed)
        for way in WAYS:
            rows.get(name_of(*way, seed), partial(row, world, *way))
    before = [rows.found[name_of(*WAYS[0], seed)]["path"][0] for seed in asked.seeds]
    start = ", ".join(f"{name} {mean_and_range([one[name] for one in before])}" for name in before[0])
    text = f"""# Elastic weight consolidation on SmolLM2-135M

Made by `python -m tests.reproductions.ewc_smollm2 --seeds {" ".join(map(str, asked.seeds))}`: mean NLL per record in
nats, mean over seeds (of authors and training) with the smallest and largest. Eight invented authors are taught, then
eight others in {EPOCHS} epochs of `transformers.Trainer` (constant rate: {RATES["full"]:g}, LoRA {RATES["LoRA"]:g}).
Before the second: {start}; the control was never taught. "Alike" holds every weight by the mean importance. The last
two columns: what the plain fine-tune knew of the first authors when it had learnt the second as well as this way did in
the end, and how much better this way knows them. A fresh LoRA's second factor is 0, and with it the importance of the
first: only the second is held.

{table(rows, asked.seeds)}
"""
    write_atomic(RESULTS / "ewc_smollm2.md", text)
    print(text)


if __name__ == "__main__":
    main()
