"""`python -m benchmarks.scaling`: time and memory of the main jobs against model size, tokens and displacements.

Every cell is a process of its own: it prepares a job, works, and says its CPU time on one thread and its peak. A job's
memory is that peak beyond the peak of the same job on next to nothing, so that libraries do not count. The exponent of
each line is fitted to the cells on a log scale.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks import subject
from benchmarks.measure import load, seconds
from benchmarks.memory import Work, peak
from benchmarks.scaling_report import Cell, Line, plot, table
from remanent.core.batch import collate
from remanent.core.displacement import Displacement, Here, Rounding
from remanent.core.method import At, Method
from remanent.core.reference import reference_nll
from remanent.core.scores import score_records
from remanent.core.update import Update
from remanent.unlearning import flat_durable, npo
from remanent.unlearning.npo import NPO

# Width and layers; about 1, 4, 15, 50 and 135 million parameters. One vocabulary, so that only the model grows.
SIZES = ((96, 5), (192, 7), (384, 8), (640, 10), (896, 14))
VOCABULARY, TOKENS = 4096, 32
ROUNDINGS = ("int8", "int4-row", "int4-g32", "nf4")
JOBS = ("NPO update", "flat-durable update", "audit")


@dataclass(frozen=True)
class Shape:
    """What a cell is run on.

    Args:
        width: of the model.
        layers: of the model.
        records: of each role, of 32 tokens, the last 16 of which are scored.
        points: displacements, roundings in turn: of an audit, and of an update where it is above 0.
    """

    width: int = 192
    layers: int = 7
    records: int = 8
    points: int = 0

    @property
    def parameters(self) -> int:
        """Of the model, in total."""
        with torch.device("meta"):
            return sum(weight.numel() for weight in _llama(self).parameters())


NEXT_TO_NOTHING = Shape(width=32, layers=1, records=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="timed repetitions of each cell")
    parser.add_argument("--out", type=Path, help="write the table there, and the plot beside it, as .png")
    arguments = parser.parse_args()
    asked = list(_cells())
    least = {}
    for job in JOBS:
        shape = replace(NEXT_TO_NOTHING, points=1 if job == "audit" else 0)
        least[job] = peak("benchmarks.scaling:job", job=job, runs=0, **asdict(shape)).memory
    found: dict[tuple[str, Shape], tuple[list[float], int]] = {}
    lines: dict[tuple[str, str], list[Cell]] = {}
    for number, (axis, job, at, shape) in enumerate(asked, start=1):
        if (job, shape) not in found:
            ran = peak("benchmarks.scaling:job", job=job, runs=arguments.runs, **asdict(shape))
            found[job, shape] = ran.found, ran.memory - least[job]
        times, memory = found[job, shape]
        lines.setdefault((axis, job), []).append(Cell(at, tuple(times), memory))
        print(f"{number}/{len(asked)}  {job}, {at} {axis}: {min(times):.3f} s, {memory / 1e6:.1f} MB", file=sys.stderr)
    fitted = [Line(axis, job, tuple(cells)) for (axis, job), cells in lines.items()]
    text = table(fitted, _introduction(arguments.runs))
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + f"\n![The same as lines on a log scale]({arguments.out.stem}.png)\n", "utf-8")
        plot(fitted, arguments.out.with_suffix(".png"))
    return 0


def _cells() -> Iterator[tuple[str, str, int, Shape]]:
    """Axis, job, place on the axis, shape."""
    for width, layers in SIZES:
        for job in JOBS:
            shape = Shape(width, layers, points=3 if job == "audit" else 0)
            yield "parameters", job, shape.parameters, shape
    for records in (4, 8, 16, 32, 64):
        for job in JOBS:
            yield "tokens", job, records * TOKENS, Shape(records=records, points=3 if job == "audit" else 0)
    for points in (1, 2, 4, 8, 16):
        for job in ("NPO update", "audit"):
            yield "displacements", job, points, Shape(points=points)


def _introduction(runs: int) -> str:
    return (
        f"Llamas with random weights, a vocabulary of {VOCABULARY} and tied embeddings, in float32; CPU time on one "
        f"thread, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, median of {runs} after one "
        "that does not count. An update is one of the named method on a batch of each of its two roles, gradient and "
        "AdamW together, its reference scores at hand; an audit is the scores of one batch at each displacement, "
        f"without generation. Where nothing else is said: {Shape().parameters / 1e6:.1f} M parameters, "
        f"{Shape().records} records of {TOKENS} tokens, an update at its method's own points, an audit at 3. Against "
        "displacements an NPO update is taken here and at that many roundings, so that it starts at two points. "
        f"Memory is the peak beyond that of the same job on a model of {NEXT_TO_NOTHING.parameters:,} parameters and "
        f"one record, each from a process of its own. {load()}"
    )


def job(job: str, runs: int, **shape: int) -> Work:
    """A job in its process: returns the seconds of each repetition."""
    work = _prepared(job, Shape(**shape))

    def repeated() -> list[float]:
        work()
        return [seconds(work) for _ in range(runs)]

    return repeated


def _prepared(job: str, shape: Shape) -> Callable[[], object]:
    torch.manual_seed(0)
    model = _llama(shape).eval()
    records = subject.records(model, 2 * shape.records, tokens=TOKENS)
    points: list[Displacement] = [Rounding(ROUNDINGS[index % len(ROUNDINGS)]) for index in range(shape.points)]
    if job == "audit":

        def looks() -> None:
            for point in points:
                with point.at(model):
                    score_records(model, records[: shape.records], pad_id=0, batch_size=shape.records)

        return looks
    model.train()
    method = npo.method() if job == "NPO update" else flat_durable.method()
    if points:
        method = Method(NPO(), points=[Here(), *map(At, points)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    update = Update(model, method, optimizer, steps=1, max_grad_norm=1.0)
    forget = collate(records, range(shape.records), 0)
    scores = reference_nll(model, records[: shape.records], pad_id=0)
    retain = collate(records, range(shape.records, 2 * shape.records), 0)
    return lambda: update({"forget": forget.with_reference(scores), "retain": retain})


def _llama(shape: Shape) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.width,
        intermediate_size=8 * shape.width // 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.width // 32,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


if __name__ == "__main__":
    sys.exit(main())
