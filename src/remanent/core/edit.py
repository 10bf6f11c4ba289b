"""An edit: changes a model without a loop, in place, can be undone, and says what it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import nn

from remanent.core.batch import Encoded
from remanent.core.displacement import Undo
from remanent.core.intervention import TakeOff
from remanent.core.packed import is_packed
from remanent.core.weights import has_adapter
from remanent.errors import UnsupportedError


@dataclass(frozen=True)
class Edited:
    """What an edit did.

    Args:
        report: plain data, for the run's manifest.
        undo: takes it back, bit for bit.
    """

    report: Mapping[str, Any]
    undo: Undo | TakeOff


@dataclass(frozen=True)
class EditSettings:
    """How an edit is made, as far as it does not say itself.

    Args:
        pad_id: token that fills short rows.
        seed: of whatever it draws, such as the order of records.
        on_batch: called after each batch with the number of its records.
        on_warning: called with a sentence.
        tokens: a text as the model's tokens; None where no edit needs it.
    """

    pad_id: int = 0
    seed: int = 0
    on_batch: Callable[[int], None] = lambda records: None
    on_warning: Callable[[str], None] = lambda text: None
    tokens: Callable[[str], Sequence[int]] | None = None


class Edit(Protocol):
    """Changes the weights of a model that is given, or puts an intervention round it, once."""

    roles: ClassVar[tuple[str, ...]]  # the sets of records that it needs

    @property
    def refuses_adapter(self) -> str:
        """Why it is not made on a model with an adapter or with packed weights; "" where it is."""
        ...

    def passes(self, sizes: Mapping[str, int]) -> int:
        """How many records pass through the model, forward and backward, given each role's number of records."""
        ...

    def edit(self, model: nn.Module, data: Mapping[str, Sequence[Encoded]], settings: EditSettings) -> Edited:
        """Edit the model in place; where it raises, the model is as it was."""
        ...


def refuse_adapter(edit: Edit, model: nn.Module) -> None:
    """Raise UnsupportedError where an edit is not made on a model with an adapter or with packed weights."""
    if edit.refuses_adapter and (has_adapter(model) or any(map(is_packed, model.parameters()))):
        raise UnsupportedError(f"the model has an adapter or packed weights, and {edit.refuses_adapter}")
