"""Repeat what is learnt late: records that an early model tells apart stand twice in the data of a new training.

    python examples/upsample.py               half a minute on one core

The made data have an easy feature in 90 % of the records and a hard one in all; a record without the easy one is what
a plain training gets wrong.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from remanent.data.useful import early_outputs, useful


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--early", type=int, default=3, help="epochs of the early model")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    dataset, easy = made(400, arguments.seed)
    tests, _ = made(4000, arguments.seed + 1)

    early = train(dataset, None, arguments.early, arguments.seed)
    outputs, labels = early_outputs(early, DataLoader(dataset, batch_size=256))
    found = useful(outputs, labels)
    slow = torch.zeros(len(labels), dtype=torch.bool)
    slow[list(found.slow)] = True
    print(
        f"to repeat: {len(found.slow)} of {found.records}; {int((slow & ~easy).sum())} of {int((~easy).sum())} "
        "records without the easy feature are among them"
    )

    for name, sampler in (("plain", None), ("useful", found.sampler(dataset, torch.Generator().manual_seed(0)))):
        model = train(dataset, sampler, arguments.epochs, arguments.seed)  # from the same weights
        inputs, labels = tests.tensors
        with torch.no_grad():
            right = (model(inputs).argmax(dim=1) == labels).float().mean()
        print(f"{name}: {100 * float(right):.1f} % right")


def made(records: int, seed: int) -> tuple[TensorDataset, Tensor]:
    """Records of 12 numbers with 2 classes, and whether each has the easy feature."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (records,), generator=generator)
    signs, easy = labels * 2.0 - 1, torch.rand(records, generator=generator) < 0.9
    inputs = 0.5 * torch.randn(records, 12, generator=generator)
    inputs[:, 0] = 2 * signs * easy
    # The hard one is whether two numbers have the same sign: no line tells it.
    inputs[:, 1] = torch.randint(0, 2, (records,), generator=generator) * 2.0 - 1
    inputs[:, 2] = inputs[:, 1] * signs
    return TensorDataset(inputs, labels), easy


def train(dataset: TensorDataset, sampler: torch.utils.data.Sampler[int] | None, epochs: int, seed: int) -> nn.Module:
    """A small network; without a sampler on the data as they are."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(dataset, batch_size=64, sampler=sampler, shuffle=sampler is None)
    for _ in range(epochs):
        for inputs, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model


if __name__ == "__main__":
    main()
