"""`python -m benchmarks`: every figure of the ground floor in one run, as a table; exit code 1 where a bound is broken.

CPU time, one thread, each pair measured in turn. On SmolLM2-135M where its wheel is installed, and with `--tiny` on a
Llama of 6 million parameters, on which fixed costs weigh more.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from benchmarks import ewc, importance, remind, sam
from benchmarks.measure import Row, extra_memory, figure, ratio
from remanent.core.batch import IGNORED, Encoded, collate
from remanent.core.displacement import Displacement, Here, Rounding
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode
from remanent.core.quantization import QuantizationFormat, round_to
from remanent.core.sampling import Sampler
from remanent.core.scores import answer_scores, score_records
from remanent.core.task import teach
from remanent.core.weights import Weights

PRECISIONS = ("int8", "int4-row", "int4-g32", "nf4", "bf16")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a small model in place of SmolLM2-135M")
    parser.add_argument("--runs", type=int, default=5, help="repetitions of each pair")
    parser.add_argument("--out", type=Path, help="write the table there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, what = _model(arguments.tiny)
    records = _records(model, 24 if arguments.tiny else 32)
    rows = [
        *_audit(model, records, arguments.runs),
        *_memory(model, records),
        _loop(model, records, arguments.runs),
        *sam.rows(model, records, arguments.runs),
        *importance.rows(arguments.runs),
        ewc.row(arguments.runs),
        remind.row(model, records, arguments.runs),
        *_nf4(arguments.runs),
        *_start(arguments.runs),
    ]
    table = _table(rows, what, arguments.runs)
    print(table)
    if arguments.out is not None:
        arguments.out.write_text(table, encoding="utf-8")
    return 0 if all(row.holds for row in rows) else 1


def _model(tiny: bool) -> tuple[nn.Module, str]:
    if not tiny:
        from remanent.models.load import load

        return load("smollm2-135m", cache=True).model, "SmolLM2-135M"
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=4096, **sizes)).eval(), "Llama, 6 M parameters"


def _records(model: nn.Module, count: int) -> list[Encoded]:
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    ids = torch.randint(0, vocabulary, (count, 48), generator=torch.Generator().manual_seed(0)).tolist()
    return [Encoded(tuple(row), (*[IGNORED] * 32, *row[32:])) for row in ids]


def _audit(model: nn.Module, records: list[Encoded], runs: int) -> list[Row]:
    def at(points: list[Displacement], layer_by_layer: bool = False) -> None:
        for point in points:
            with point.at(model, layer_by_layer=layer_by_layer):
                score_records(model, records, pad_id=0, batch_size=32)

    rounded: list[Displacement] = [Rounding(name) for name in PRECISIONS]
    plain: list[Displacement] = [Here()] * len(PRECISIONS)
    peer = "five evaluations of the same records without rounding"
    return [
        ratio("rounding audit at 5 precisions, time", lambda: at(rounded), lambda: at(plain), 1.25, peer, runs),
        ratio(
            "the same, layer by layer, time", lambda: at(rounded, True), lambda: at(plain), 1.6, peer, max(1, runs // 2)
        ),
    ]


def _memory(model: nn.Module, records: list[Encoded]) -> list[Row]:
    point = Rounding("int4-row")
    moving = point.moving(Weights.of(model))
    moves = sum(tensor.numel() * tensor.element_size() for tensor in moving.values())
    largest = max(tensor.numel() * tensor.element_size() for tensor in moving.values())

    def look(layer_by_layer: bool) -> None:
        with point.at(model, layer_by_layer=layer_by_layer), torch.no_grad():
            if layer_by_layer:
                answer_scores(model, collate(records, [0], 0))

    with torch.no_grad():
        answer_scores(model, collate(records, [0], 0))
    gc.collect()
    whole = extra_memory(lambda: look(False)) / moves
    forward = extra_memory(lambda: answer_scores(model, collate(records, [0], 0)))
    layered = max(0, extra_memory(lambda: look(True)) - forward) / largest
    return [
        Row("look at int4-row, extra memory", whole, whole, whole, 1.05, "the bytes that move"),
        Row("the same, layer by layer, beyond the forward's own", layered, layered, layered, 4.0, "the largest layer"),
    ]


def _loop(model: nn.Module, records: list[Encoded], runs: int) -> Row:
    method = teach()
    method = replace(method, recipe=replace(method.recipe, steps=4, learning_rate=0.0, batch_size=8))
    episode = Episode("bench", "teach", {"task": records})
    settings = Settings(pad_id=0, checkpoint_every=0, dropout=False)

    def ours() -> None:
        run_episode(model, method, episode, settings)

    def bare() -> None:
        """The same updates, written out."""
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.01, fused=True)
        sampler = Sampler(len(records), 8, 0, "task")
        for step in range(1, 5):
            optimizer.zero_grad(set_to_none=True)
            batch = collate(records, sampler.batch(step), 0)
            (-answer_scores(model, batch).log_probs.mean()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return ratio("four updates in our loop, time", ours, bare, 1.03, "the same updates in a bare PyTorch loop", runs)


def _nf4(runs: int) -> list[Row]:
    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    except ImportError:
        return []
    weight = torch.randn(4096, 1024, generator=torch.Generator().manual_seed(0))
    nf4 = QuantizationFormat.parse("nf4")

    def theirs() -> torch.Tensor:
        return dequantize_4bit(*quantize_4bit(weight, blocksize=64, quant_type="nf4"))

    different = float((round_to(weight, nf4) != theirs()).sum())
    peer = "bitsandbytes quantize_4bit and dequantize_4bit"
    return [
        Row("NF4, values that differ", different, different, different, 0.0, peer),
        ratio("NF4 of 4096 x 1024, time", lambda: round_to(weight, nf4), theirs, 1.2, peer, runs),
    ]


def _start(runs: int) -> list[Row]:
    def seconds(*command: str) -> float:
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start

    program = str(Path(sys.executable).with_name("remanent"))
    return [
        figure("remanent --help, seconds", lambda: seconds(program, "--help"), 0.5, "wall clock", runs),
        figure("import remanent, seconds", lambda: seconds(sys.executable, "-c", "import remanent"), 0.3, "wall", runs),
    ]


def _table(rows: list[Row], what: str, runs: int) -> str:
    lines = [
        f"{what}, {torch.get_num_threads()} thread, torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}; median of {runs} (least to most).",
        "",
        "| what | figure | least to most | at most | against |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        mark = "" if row.holds else " **broken**"
        spread = f"{row.low:.2f} to {row.high:.2f}"
        lines.append(f"| {row.name} | {row.value:.2f}{mark} | {spread} | {row.bound:.2f} | {row.peer} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
