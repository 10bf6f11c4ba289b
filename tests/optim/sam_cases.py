"""Small models, batches and closures, and how each optimizer of SAM's family is made and stepped."""

from __future__ import annotations

import torch
from torch import nn

from remanent.optim import ASAM, ESAM, GSAM, MSAM, SAM, LookSAM

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
COUNT = 12


def net(dtype=torch.float32, norm=False, dropout=0.0):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        layers = [nn.Linear(5, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.Tanh(), nn.Dropout(dropout)]
        return nn.Sequential(*layers, nn.Linear(8, 3)).to(dtype)


def batch(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(COUNT, 5, generator=generator).to(dtype)
    return inputs, torch.randint(0, 3, (COUNT,), generator=generator)


def bowl(w):
    """L = (x^2 + 4 y^2) / 2, on which the card's cases are worked by hand."""
    return (w[0] ** 2 + 4 * w[1] ** 2) / 2


def closure_of(model, data, rows=slice(None), scaler=None, spoil=None, precision=None):
    """Runs forward and backward. `spoil()` multiplies the loss."""

    def closure(rows=rows):
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            loss = nn.functional.cross_entropy(model(data[0][rows]).to(data[0].dtype), data[1][rows])
        loss = loss * (1.0 if spoil is None else spoil())
        (loss if scaler is None else scaler.scale(loss)).backward()
        return loss

    return closure


def losses_of(model, data, spoil=None, precision=None):
    """Each record's loss, without backward."""

    def losses(rows):
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            output = model(data[0][rows]).to(data[0].dtype)
        found = nn.functional.cross_entropy(output, data[1][rows], reduction="none")
        return found * (1.0 if spoil is None or not torch.is_grad_enabled() else spoil())

    return losses


def step(optimizer, model, data, scaler=None, spoil=None, precision=None):
    """One step, whatever the optimizer asks for."""
    if isinstance(optimizer, ESAM):
        return optimizer.step(losses_of(model, data, spoil, precision), scaler, records=COUNT)
    closure = closure_of(model, data, slice(None), scaler, spoil, precision)
    if isinstance(optimizer, MSAM):
        return optimizer.step(closure, scaler, records=COUNT)
    return optimizer.step(closure, scaler)


# Name -> the optimizer round a base, for a model. Radii of 0.2, unless `options` say otherwise.
FAMILY = {
    "sam": lambda m, base, **o: SAM(m.parameters(), base, **{"rho": 0.2, "model": m, **o}),
    "asam": lambda m, base, **o: ASAM(m.named_parameters(), base, **{"rho": 0.2, "model": m, **o}),
    "every": lambda m, base, **o: SAM(m.parameters(), base, **{"rho": 0.2, "every": 3, "model": m, **o}),
    "reuse": lambda m, base, **o: SAM(
        m.parameters(), base, **{"rho": 0.2, "every": 3, "between": "reuse", "model": m, **o}
    ),
    "gsam": lambda m, base, **o: GSAM(m.parameters(), base, **{"rho": 0.2, "model": m, **o}),
    "look-sam": lambda m, base, **o: LookSAM(m.parameters(), base, **{"rho": 0.2, "every": 3, "model": m, **o}),
    "msam": lambda m, base, **o: MSAM(m.parameters(), base, **{"rho": 0.2, "micro_batch_size": 5, "model": m, **o}),
    "esam": lambda m, base, **o: ESAM(m.parameters(), base, **{"rho": 0.2, "model": m, **o}),
}
