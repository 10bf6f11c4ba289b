from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from remanent.core.digest import weights_digest


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -0.0]]))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("scratch", torch.zeros(2, dtype=torch.bfloat16), persistent=False)


def test_by_hand():
    raw = b"count\0torch.int64\0()\0" + (3).to_bytes(8, "little")
    raw += b"scratch\0torch.bfloat16\0(2,)\0" + bytes(4)
    raw += b"weight\0torch.float32\0(1, 2)\0" + bytes.fromhex("0000803f00000080")
    assert weights_digest(Pair()) == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.weight.data.mul_(torch.tensor([1.0, -1.0])),  # -0.0 becomes 0.0
        lambda model: model.count.add_(1),
        lambda model: model.scratch.add_(1),
        lambda model: model.bfloat16(),
        lambda model: setattr(model, "weight", nn.Parameter(model.weight.data.T)),
        lambda model: model.register_parameter("other", nn.Parameter(torch.zeros(1))),
    ],
)
def test_any_change_shows(change):
    model = Pair()
    change(model)
    assert weights_digest(model) != weights_digest(Pair())


def test_mode_gradients_and_memory_layout_do_not_matter():
    model = Pair().eval().requires_grad_(False)
    model.weight.data = torch.stack([model.weight.data, model.weight.data], dim=-1)[..., 0]
    assert not model.weight.is_contiguous()
    assert weights_digest(model) == weights_digest(Pair())
