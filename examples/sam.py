"""Train flat: SGD and SAM on images of digits, 40 % of whose labels are wrong.

    python examples/sam.py                  half a minute on one core; needs scikit-learn, for its digits
    python examples/sam.py --rho 0.05       a smaller radius

Prints each one's accuracy on images with true labels.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from remanent.optim import SAM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rho", type=float, default=0.2, help="radius within which SAM looks for the worst point")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(arguments.seed)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    order = torch.randperm(len(images), generator=generator)
    images, labels = (images[order] / 16).float(), labels[order]
    seen = labels[:1000].clone()
    wrong = torch.rand(1000, generator=generator) < 0.4
    seen[wrong] = (seen[wrong] + torch.randint(1, 10, (int(wrong.sum()),), generator=generator)) % 10
    for name, rho in (("sgd", 0.0), ("sam", arguments.rho)):
        model = train(images[:1000], seen, rho, arguments.epochs, arguments.seed)
        with torch.no_grad():
            right = model(images[1000:]).argmax(dim=1) == labels[1000:]
        print(f"{name}: {100 * right.float().mean():.1f} % right")


def train(inputs: Tensor, labels: Tensor, rho: float, epochs: int, seed: int) -> nn.Module:
    """A small network; a rho of 0 is plain SGD."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=rho, lr=0.1, momentum=0.9, weight_decay=5e-4, model=model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):

            def closure(rows: Tensor = rows) -> Tensor:
                loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
                loss.backward()
                return loss

            optimizer.step(closure)
        schedule.step()
    return model


if __name__ == "__main__":
    main()
