"""Small vision models on real images, for the studies of sharpness: digits of scikit-learn and Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .study_rows import data_folder

Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Split:
    """Images as rows of pixels in [0, 1], and labels."""

    train: Data
    test: Data


def digits(seed: int, train: int) -> Split:
    """8 x 8 digits in an order of the seed's own: so many to train on, the others to test on."""
    from sklearn.datasets import load_digits

    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = (images[order] / 16).float(), labels[order]
    return Split((images[:train], labels[:train]), (images[train:], labels[train:]))


def fashion() -> Split | None:
    """Fashion-MNIST of the local copies, 14 x 14; None where there is none."""
    import numpy as np

    folder = data_folder() / "fashion_mnist"
    if not folder.is_dir():
        return None

    def part(name: str) -> Data:
        file = np.load(folder / f"{name}.npz")
        images = torch.as_tensor(file["images"]).float()[:, None] / 255
        small = functional.avg_pool2d(images, 2).flatten(1)
        return small, torch.as_tensor(file["labels"]).long()

    return Split(part("train"), part("test"))


def noisy(data: Data, sigma: float, seed: int = 0) -> Data:
    """The same images with Gaussian noise, cut to [0, 1]."""
    images, labels = data
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + sigma * noise).clamp(0, 1), labels


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """In percent, in eval mode."""
    return 100 * float((model.eval()(data[0]).argmax(dim=1) == data[1]).float().mean())


@torch.no_grad()
def mean_loss(model: nn.Module, data: Data) -> float:
    """Mean cross-entropy, in eval mode."""
    return float(functional.cross_entropy(model.eval()(data[0]), data[1]))


def trained(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    epochs: int,
    *,
    seed: int,
    batch: int = 64,
    schedule: Callable[[float], float] = lambda share: 1.0,
    noise: float = 0.0,
) -> nn.Module:
    """Train with any optimizer that takes a closure; `schedule` is the rate's factor at a share of the run."""
    images, labels = data
    generator = torch.Generator().manual_seed(seed)
    rates = [group["lr"] for group in optimizer.param_groups]
    steps, step = epochs * -(-len(images) // batch), 0
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(batch):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(step / steps)
            seen = images[rows]
            if noise:
                seen = seen + noise * torch.randn(seen.shape, generator=generator)

            def closure(seen: Tensor = seen, rows: Tensor = rows) -> Tensor:
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(seen), labels[rows])
                loss.backward()
                return loss

            optimizer.step(closure)
            step += 1
    return model.eval()


def mlp(inputs: int, *, seed: int, widths: tuple[int, ...] = (64, 64)) -> nn.Sequential:
    """A multilayer perceptron with ReLU and ten outputs."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def patches(images: Tensor) -> Tensor:
    """8 x 8 images as 16 patches of 2 x 2: (images, 16, 4)."""
    return images.view(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(-1, 16, 4)


class FeedForward(nn.Sequential):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        samples, places, width = tokens.shape
        query, key, value = self.qkv(tokens).view(samples, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(samples, places, width))


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, 4)
        self.norm2, self.mlp = nn.LayerNorm(width), FeedForward(width, 2 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class MixerBlock(nn.Module):
    """Pre-norm feed-forward over places, then over channels."""

    def __init__(self, width: int, places: int = 16) -> None:
        super().__init__()
        self.norm1, self.tokens = nn.LayerNorm(width), FeedForward(places, 2 * places)
        self.norm2, self.channels = nn.LayerNorm(width), FeedForward(width, 2 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.tokens(self.norm1(tokens).transpose(1, 2)).transpose(1, 2)
        return tokens + self.channels(self.norm2(tokens))


class PatchModel(nn.Module):
    """A vision transformer or a mixer on the patches of 8 x 8 digits, without batch norm.

    Args:
        kind: "vit" or "mixer".
        seed: of the weights.
        width: of tokens.
        blocks: how many.
    """

    def __init__(self, kind: str, *, seed: int, width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        block = TransformerBlock if kind == "vit" else MixerBlock
        self.embed = nn.Linear(4, width)
        self.places = nn.Parameter(0.02 * torch.randn(16, width)) if kind == "vit" else None
        self.blocks = nn.ModuleList(block(width) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(patches(images))
        if self.places is not None:
            tokens = tokens + self.places
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens).mean(dim=1))
