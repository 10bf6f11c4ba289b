"""`make bench`: every figure of the ground floor in one run, as a table; exit code 1 where a bound is broken.

It is `python -m benchmarks` in the environment that has the peers. Where one is missing a line under the table says so.

CPU time, one thread, each pair measured in turn. On SmolLM2-135M where its wheel is installed, and with `--tiny` on a
Llama of 6 million parameters, on which fixed costs weigh more. With `--out` the rows of each part are kept beside the
table as they are found, and a run that was cut off goes on with the next part.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks import ewc, gu, importance, looks, multi_task, npo, remind, sam, subject, trust_region
from benchmarks.measure import Row, figure, ratio
from remanent.core.batch import Encoded, collate
from remanent.core.episode import Episode
from remanent.core.files import write_atomic
from remanent.core.loop import Settings, run_episode
from remanent.core.quantization import QuantizationFormat, round_to
from remanent.core.sampling import Sampler
from remanent.core.scores import answer_scores
from remanent.core.task import teach

# Name -> its rows, of a model, records, whether it is the small one, and repetitions.
PARTS: Mapping[str, Callable[[nn.Module, list[Encoded], bool, int], list[Row]]] = {
    "looks": lambda model, records, tiny, runs: [
        *looks.time_rows(model, records, runs),
        *looks.memory_rows(tiny),
    ],
    "loop": lambda model, records, tiny, runs: [_loop(model, records, runs)],
    "npo": lambda model, records, tiny, runs: npo.rows(model, tiny, runs),
    "sam": lambda model, records, tiny, runs: sam.rows(model, tiny, records, runs),
    "trust-region": lambda model, records, tiny, runs: trust_region.rows(model, tiny, records, runs),
    "multi-task": lambda model, records, tiny, runs: multi_task.rows(model, tiny, runs),
    "gu": lambda model, records, tiny, runs: gu.rows(model, records, runs),
    "importance": lambda model, records, tiny, runs: importance.rows(runs),
    "ewc": lambda model, records, tiny, runs: [ewc.row(runs)],
    # Each record is looked at 48 times.
    "remind": lambda model, records, tiny, runs: [remind.row(model, records[:4], max(1, runs // 2))],
    "nf4": lambda model, records, tiny, runs: _nf4(runs),
    "start": lambda model, records, tiny, runs: _start(runs),
}
# Name of a part -> the package without which some of its rows cannot be measured.
PEERS: Mapping[str, str] = {"sam": "pytorch_optimizer", "importance": "opacus", "nf4": "bitsandbytes"}


@dataclass(frozen=True)
class Part:
    """What was found of a part, and the load average of the machine when it was done.

    Args:
        rows: of the table.
        load: over 15 minutes; one thread of ours is 1 of it.
        absent: the packages that it was measured without.
    """

    rows: list[Row]
    load: float
    absent: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a small model in place of SmolLM2-135M")
    parser.add_argument("--runs", type=int, default=5, help="repetitions of each pair")
    parser.add_argument("--out", type=Path, help="write the table there")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts of the table alone")
    arguments = parser.parse_args()
    if arguments.out is not None and arguments.only != list(PARTS):
        parser.error("--out writes the whole table; leave out --only")
    torch.set_num_threads(1)
    tiny, runs = arguments.tiny, arguments.runs
    what = (
        f"commit {_commit()}, {subject.name(tiny)}, {torch.get_num_threads()} thread, torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}; median of {runs} (least to most)"
    )
    kept = None if arguments.out is None else arguments.out.with_suffix(".partial.json")
    found = _kept(kept, what)
    if left := [name for name in arguments.only if name not in found]:
        model = subject.model(tiny)
        records = subject.records(model, 24 if tiny else 32)
    for name in left:
        began = time.monotonic()
        found[name] = Part(PARTS[name](model, records, tiny, runs), os.getloadavg()[2], _absent(name))
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if kept is not None:
            write_atomic(kept, json.dumps({"of": what, "parts": {part: asdict(one) for part, one in found.items()}}))
    table = _table([found[name] for name in arguments.only], what)
    print(table)
    if arguments.out is not None and kept is not None:
        write_atomic(arguments.out, table)
        kept.unlink()
    return 0 if all(row.holds for part in found.values() for row in part.rows) else 1


def _kept(file: Path | None, what: str) -> dict[str, Part]:
    """The parts that a run of the same kind found before it was cut off."""
    if file is None or not file.is_file():
        return {}
    read = json.loads(file.read_text(encoding="utf-8"))
    if read["of"] != what:
        return {}
    return {
        name: Part(**{**one, "rows": [Row(**row) for row in one["rows"]]})
        for name, one in read["parts"].items()
        if name in PARTS and one.get("absent", []) == _absent(name)
    }


def _commit() -> str:
    """What is measured; with what was changed since, where something was."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return found.stdout.strip() or "unknown"


def _absent(part: str) -> list[str]:
    return [PEERS[part]] if part in PEERS and importlib.util.find_spec(PEERS[part]) is None else []


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

    program = (sys.executable, "-m", "remanent")  # the environment of the peers has no script of ours
    return [
        figure("remanent --help, seconds", lambda: seconds(*program, "--help"), 0.5, "wall clock", runs),
        figure("import remanent, seconds", lambda: seconds(sys.executable, "-c", "import remanent"), 0.3, "wall", runs),
    ]


def _table(parts: list[Part], what: str) -> str:
    loads = [part.load for part in parts]
    busy = f"{min(loads):.1f}" if len(loads) == 1 else f"{min(loads):.1f} to {max(loads):.1f}"
    lines = [
        f"{what}. Load average of the machine over 15 minutes, our thread being 1 of it: {busy}, on {os.cpu_count()} "
        "cores.",
        "",
        "| what | figure | least to most | at most | against |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in (row for part in parts for row in part.rows):
        mark = "" if row.holds else " **broken**"
        spread = f"{_short(row.low)} to {_short(row.high)}"
        lines.append(f"| {row.name} | {_short(row.value)}{mark} | {spread} | {_short(row.bound)} | {row.peer} |")
    absent = [f"not measured: {package} is not installed (make peers)" for part in parts for package in part.absent]
    return "\n\n".join(["\n".join(lines), *absent]) + "\n"


def _short(value: float) -> str:
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.005 else f"{value:.0e}"


if __name__ == "__main__":
    sys.exit(main())
