"""SAF: the logits of each record stay near those of a few epochs ago, as a stand-in for sharpness at no extra pass.

L = task loss + weight * tau^2 * mean KL(softmax(y / tau) || softmax(z / tau)); z the model's logits of a record now, y
those of the same record `back` epochs ago. A loss term, since the step is the base optimizer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from remanent.core.catalogue import System
from remanent.core.divergence import mean_divergence
from remanent.errors import InputError
from remanent.optim.mesa import check_term

SYSTEM = System(
    name="saf",
    title="Sharpness-aware training for free: a record's logits stay near those of earlier epochs",
    year=2022,
    arxiv="2205.14083",
    card="saf",
    family="optim",
    reproduction="tests/reproductions/test_saf.py",
    needs=("a stable index of each record", "records x classes logits"),
    notes="tau^2 as in the official code and not in the paper's equation 8. Records without logits of that epoch are "
    "left out; the code compares them to zeros, a uniform target. Processes share what they store.",
)

_NEVER = -1


class SAF:
    """The loss term of SAF: `loss = task_loss + saf(logits, index, epoch)`.

    Keeps (back + 1) x records x classes numbers in float32, on the CPU. Under torch.distributed each process stores
    what all of them saw, so that it finds a record's logits wherever that record was trained on.

    Not with mixed records (Mixup, CutMix), whose stored logits belong to another mixture, nor for language models,
    whose classes are too many: `MESA` needs no store.

    Args:
        records: of the data set.
        classes: of the logits.
        weight: lambda, at least 0; 0 adds nothing and stores nothing.
        temperature: tau, above 0.
        back: E~, epochs back, at least 1.
        start: epochs before the term is added; logits are stored from the first on.

    Raises InputError for a value out of range.

    Source: arXiv 2205.14083, equation 8 and Algorithm 1; official code, SAF_train.py.
    """

    def __init__(
        self,
        records: int,
        classes: int,
        *,
        weight: float = 0.3,
        temperature: float = 5.0,
        back: int = 3,
        start: int = 5,
    ) -> None:
        check_term(weight, temperature)
        for name, value, least in (("records", records, 1), ("classes", classes, 1), ("back", back, 1)):
            if value < least:
                raise InputError(name, value, f"a number of at least {least}")
        if start < 0:
            raise InputError("start", start, "a number of epochs, at least 0")
        self.weight, self.temperature, self.back, self.start = weight, temperature, back, start
        self._shape = (records, classes)
        self._logits = torch.zeros(back + 1, records, classes)
        self._epochs = torch.full((back + 1, records), _NEVER)  # in which epoch an entry was written

    def __call__(self, logits: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Store the logits, and return the weighted term, a mean over those records that have logits of that epoch.

        Args:
            logits: the model's, (records, classes), with their graph.
            index: int64, (records,): each one's number in the data set, the same in every epoch.
            epoch: counted from 0.
        """
        where = self._checked(logits, index)
        if self.weight == 0:
            return logits.new_zeros(())
        self._store(logits.detach().float().cpu(), where, epoch)
        slot = (epoch - self.back) % (self.back + 1)
        known = self._epochs[slot, where] == epoch - self.back
        if epoch < max(self.start, self.back) or not bool(known.any()):
            return logits.new_zeros(())
        past = self._logits[slot, where].to(logits.device)
        mask = None if bool(known.all()) else known.to(logits.device)
        return self.weight * mean_divergence(past, logits, temperature=self.temperature, mask=mask)

    def state_dict(self) -> dict[str, Tensor]:
        """The stored logits, and the epoch of each."""
        return {"logits": self._logits.clone(), "epochs": self._epochs.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state_dict` gave. Raises InputError for another data set's or another `back`'s."""
        if state["logits"].shape != self._logits.shape:
            expected = f"logits of shape {tuple(self._logits.shape)}: back + 1, records, classes"
            raise InputError("state", tuple(state["logits"].shape), expected)
        self._logits.copy_(state["logits"])
        self._epochs.copy_(state["epochs"])

    def _checked(self, logits: Tensor, index: Tensor) -> Tensor:
        records, classes = self._shape
        if logits.dim() != 2 or logits.shape[1] != classes:
            raise InputError("logits", tuple(logits.shape), f"(records, {classes})")
        where = index.detach().cpu()
        if where.dtype != torch.int64 or where.shape != logits.shape[:1]:
            raise InputError("index", f"{where.dtype} of shape {tuple(where.shape)}", f"int64, ({len(logits)},)")
        if len(where) and not 0 <= int(where.min()) <= int(where.max()) < records:
            found = f"{int(where.min())} to {int(where.max())}"
            raise InputError("index", found, f"numbers from 0 to {records - 1}, of the {records} records")
        return where

    def _store(self, logits: Tensor, where: Tensor, epoch: int) -> None:
        slot = epoch % (self.back + 1)
        parts: list[Any] = [(logits, where)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, (logits, where))
        for values, rows in parts:
            self._logits[slot, rows] = values
            self._epochs[slot, rows] = epoch
