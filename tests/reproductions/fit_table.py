"""A hundred deletion requests: FIT, its parts left out one at a time, NPO and gradient difference, as table and curves.

    python -m tests.reproductions.fit_table [seeds]

writes results/fit.md and results/fit.svg beside this file. Learning rates are chosen first, on seed 100 and its first
40 requests, by the mean of forget degree and retain utility at the end; that seed is not among those of the table. What
is FIT without a part is trained at FIT's rate.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

from remanent.core.batch import Encoded
from remanent.core.files import write_atomic
from remanent.core.loop import with_settings
from remanent.core.method import Method
from remanent.core.sampling import seed_of
from remanent.unlearning import fit, grad_diff, npo

from .requests_world import RequestsWorld, average, last

FIT_RATE = 1e-4  # what the choice below came to
RATES, DEVELOPMENT, FIRST = (1e-5, 3e-5, 1e-4, 3e-4), 100, 40
FIT = {"calibrate": True, "layers": 1, "chunk": 4, "epsilon": 1.0}
COLUMNS: dict[str, Callable[[Sequence[Mapping[str, Any]]], float]] = {
    "F.D., mean": lambda rows: average(rows, "forget_degree"),
    "R.U., mean": lambda rows: average(rows, "retain_utility"),
    "F.D., last": lambda rows: last(rows, "forget_degree"),
    "R.U., last": lambda rows: last(rows, "retain_utility"),
    "S forget": lambda rows: rows[-1]["forget"]["score"],
    "S retain": lambda rows: rows[-1]["retain"]["score"],
    "forget NLL": lambda rows: rows[-1]["forget"]["nll"],
    "retain NLL": lambda rows: rows[-1]["retain"]["nll"],
}


@dataclass(frozen=True)
class RandomLayers(fit.FIT):
    """FIT whose layers are drawn, one draw for each request: attribution left out, few layers kept."""

    def _attributed(self, model: nn.Module, records: Sequence[Encoded], layers: Sequence[int]) -> list[int]:
        return sorted(layers, key=lambda layer: seed_of(records[0].key, layer))


def at_random(**given: Any) -> RandomLayers:
    """FIT with drawn layers."""
    made = fit.method(**given)
    return RandomLayers(**{field.name: getattr(made, field.name) for field in fields(made)})


WAYS: dict[str, Callable[..., Method]] = {
    "fit": fit.method,
    "fit without filter": partial(fit.method, filter=False),
    "fit without importance: npo-kl": partial(fit.method, algorithm="npo-kl"),
    "fit without importance: npo": partial(fit.method, algorithm="npo"),
    "fit in all layers": lambda **given: fit.method(**{**given, "layers": 99}),
    "fit in drawn layers": at_random,
    "npo": lambda **given: npo.method(),
    "grad-diff": lambda **given: grad_diff.method(),
}
CHOSEN = ("fit", "npo", "grad-diff")  # whose rates are chosen


def way(name: str, rate: float = FIT_RATE, given: Mapping[str, Any] = FIT) -> Method:
    """A way with the updates that all have in common: three passes over a request, eight retained records each."""
    made = WAYS[name](**given)
    return with_settings(
        made, learning_rate=rate, epochs=3.0, batch_size=8, schedule="cosine", warmup=0.0, weight_decay=0.1
    )


def chosen_rates(report: Callable[[str], None] = print) -> dict[str, float]:
    """Way -> the rate with the largest mean of forget degree and retain utility on the development seed."""
    world = RequestsWorld(seed=DEVELOPMENT)
    world.requests = world.requests[:FIRST]
    found: dict[str, dict[float, float]] = {}
    for name in CHOSEN:
        for rate in RATES:
            end = world.obey(way(name, rate), every=FIRST)[-1]
            found.setdefault(name, {})[rate] = (end["forget_degree"] + end["retain_utility"]) / 2
            report(f"development, {name} at {rate:g}: {end['forget_degree']:.2f} {end['retain_utility']:.2f}")
    return {name: max(of, key=lambda rate: of[rate]) for name, of in found.items()}


def curves(seed: int, rates: Mapping[str, float], report: Callable[[str], None] = print) -> tuple[dict[str, Any], str]:
    """Of one seed: way -> its curve; where the lines end and what FIT decided, in words."""
    world, found, decided = RequestsWorld(seed=seed), {}, ""
    for name in WAYS:
        method = way(name, rates.get(name, rates["fit"]))
        found[name] = world.obey(method, seed=seed)
        report(f"seed {seed}, {name}: " + ", ".join(f"{key} {of(found[name]):.2f}" for key, of in COLUMNS.items()))
        if name == "fit":
            assert isinstance(method, fit.FIT)
            decided = _decided(world, method)
    lines = ", ".join(f"of {role} from {first:.1f} to {end:.1f}" for role, (first, end) in world.ends.items())
    return found, f"- Seed {seed}: S {lines}. FIT: {decided}"


def _decided(world: RequestsWorld, method: fit.FIT) -> str:
    """In words: the algorithms, what was left out of new requests and of repeats, and the layers."""
    decisions = method.carried.decisions
    kinds = {request.name: request.repeats for request in world.requests}
    routes = Counter(item["algorithm"] for item in decisions)
    layers = Counter(layer for item in decisions for layer in item["layers"])
    parts = []
    for kind in dict.fromkeys(kinds.values()):
        shares = [item["left"] / item["tokens"] for item in decisions if kinds[item["request"]] == kind]
        skipped = sum(of == kind for of in kinds.values()) - len(shares)
        trained = f", {mean(shares):.2f} of the tokens of the others trained on" if shares else ""
        parts.append(f"{kind or 'new'}: {skipped} skipped{trained}")
    chosen = ", ".join(f"{name} {count}" for name, count in routes.most_common())
    return f"{chosen}. {'; '.join(parts)}. Layers: {', '.join(f'{n}: {count}' for n, count in sorted(layers.items()))}."


def table(found: Mapping[str, list[Any]]) -> str:
    """Means over seeds with their range, as Markdown."""
    lines = [f"| {' | '.join(['way', *COLUMNS])} |", "|" + " --- |" * (len(COLUMNS) + 1)]
    for name, runs in found.items():
        cells = []
        for of in COLUMNS.values():
            values = [of(rows) for rows in runs]
            cells.append(f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})")
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def draw(found: Mapping[str, list[Any]], file: Path) -> None:
    """Forget degree and retain utility by the number of requests: means over seeds, with their range."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2, sharey=True),
        ("forget_degree", "retain_utility"),
        ("forget degree", "retain utility"),
        strict=True,
    ):
        for place, (name, runs) in enumerate(found.items()):
            at = [row["requests"] for row in runs[0]]
            values = [[row[key] for row in rows] for rows in runs]
            middle = [mean(column) for column in zip(*values, strict=True)]
            axes.plot(at, middle, marker="osD^vPX*"[place % 8], linewidth=2.2 if name == "fit" else 1.1, label=name)
            axes.fill_between(
                at, [min(c) for c in zip(*values, strict=True)], [max(c) for c in zip(*values, strict=True)], alpha=0.08
            )
        axes.set_xlabel("requests")
        axes.set_title(label)
        axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    with matplotlib.rc_context({"svg.hashsalt": "fit", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})


def write(found: Mapping[str, list[Any]], words: Sequence[str], rates: Mapping[str, float]) -> str:
    """Write the table and the figure of the seeds so far."""
    text = f"""# A hundred deletion requests

Made by `python -m tests.reproductions.fit_table {len(words)}`: means over {len(words)} seed(s), with range, on one
thread. A Llama of 4 layers and width 64 was taught 75 authors that ask to be forgotten, one record each, and 96 to be
kept; 25 of the 100 requests repeat an earlier one, half of them word for word. Each request gets 3 updates, with 8
retained records each where a way has a retain loss. Lines end at a model that was taught the retained authors alone.
Rates were chosen on another seed, from {", ".join(f"{rate:g}" for rate in RATES)}:
{", ".join(f"{rate:g} for {name}" for name, rate in rates.items())}; the parts of FIT have FIT's. Means are over the
points after 25, 50, 75 and 100 requests; S and NLL are at the last. Retained records are of the split that nothing
trained on.

{table(found)}

{chr(10).join(words)}

![Forget degree and retain utility](fit.svg)
"""
    folder = Path(__file__).with_name("results")
    folder.mkdir(exist_ok=True)
    draw(found, folder / "fit.svg")
    write_atomic(folder / "fit.md", text)
    return text


def main() -> None:
    """Make the table and the figure, with the command that made them; after each seed, of the seeds so far."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    torch.set_num_threads(1)
    rates = chosen_rates(lambda line: print(line, flush=True))
    found: dict[str, list[Any]] = {name: [] for name in WAYS}
    words: list[str] = []
    for seed in range(seeds):
        made, said = curves(seed, rates, lambda line: print(line, flush=True))
        for name, rows in made.items():
            found[name].append(rows)
        words.append(said)
        print(write(found, words, rates), flush=True)


if __name__ == "__main__":
    main()
