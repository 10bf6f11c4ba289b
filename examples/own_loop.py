"""Unlearning in a PyTorch loop of your own: five lines of Remanent.

    python examples/own_loop.py                               a tiny model: seconds
    python examples/own_loop.py --model smollm2-135m          a real one: minutes

The model is taught some fictitious authors first, so that it has something to forget.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.utils.data import DataLoader

from remanent.core.batch import Batch, Encoded, collate
from remanent.core.displacement import Here, Rounding
from remanent.core.episode import Episode
from remanent.core.evaluation import known
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.reference import reference_nll
from remanent.core.task import teach
from remanent.core.update import Update
from remanent.data.authors import author_sets
from remanent.data.encode import encode_all, pad_id
from remanent.models.load import load
from remanent.models.tiny import tiny
from remanent.unlearning import durable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or a name; default: a tiny model made on the spot")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)

    authors = author_sets(seed=arguments.seed, forget=4, retain=8, control=4, questions=2)
    records = {"forget": authors.forget, "retain": authors.retain, "control": authors.control}
    everything = [record for group in records.values() for record in group]
    loaded = load(arguments.model) if arguments.model else tiny(everything, seed=arguments.seed)
    teaching = teach() if arguments.model else with_settings(teach(), learning_rate=3e-3, epochs=40)
    model, pad = loaded.model, pad_id(loaded.tokenizer)
    sets = {role: encode_all(group, loaded.tokenizer) for role, group in records.items()}
    lesson = Episode("lesson", "teach", {"task": sets["forget"] + sets["retain"]})
    run_episode(model, teaching, lesson, Settings(pad))
    show("taught", model, sets, pad)

    def batches(role: str) -> DataLoader[Batch]:
        return DataLoader(
            range(len(sets[role])), batch_size=8, shuffle=True, collate_fn=lambda rows: collate(sets[role], rows, pad)
        )

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5 if arguments.model else 6e-4)
    method = durable.method(retain_weight=4.0)  # 1: NPO, here and at a rounding that changes from update to update
    update = Update(model, method, optimizer, steps=arguments.steps, max_grad_norm=1.0)  # 2
    reference = reference_nll(model, sets["forget"], pad_id=pad)  # 3: what NPO is measured against
    model.train()
    pairs = zip(endless(batches("forget")), endless(batches("retain")), strict=True)
    for forget, retain in itertools.islice(pairs, arguments.steps):
        losses = update({"forget": forget.with_reference(reference), "retain": retain})  # 4: from zero_grad to step
        if update.step % 10 == 0:
            print(f"step {update.step:3}  " + "  ".join(f"{name} {value:.3f}" for name, value in losses.items()))
    show("unlearned", model, sets, pad)  # 5: at full precision and at 4 bits


def endless(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """Pass after pass of a loader, each in an order of its own."""
    while True:
        yield from loader


def show(when: str, model: torch.nn.Module, sets: Mapping[str, Sequence[Encoded]], pad: int) -> None:
    """Print how well each set is known at full precision and at 4 bits: mean answer NLL per record, in nats."""
    for point, nll in known(model, sets, [Here(), Rounding("int4-row")], pad_id=pad).items():
        print(f"{when} at {point}: " + "  ".join(f"{role} {value:.3f}" for role, value in nll.items()))


if __name__ == "__main__":
    main()
