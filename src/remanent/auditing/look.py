"""What is measured at a condition in place of, or beside, the scores of the records as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from remanent.auditing.text_score import TextScore
from remanent.data.record import Record

if TYPE_CHECKING:
    from remanent.auditing.condition import Condition
    from remanent.auditing.measure import Measurer


class Look(Protocol):
    """A way of looking at a model. Implementations are frozen dataclasses, whose repr names them where it is stored."""

    @property
    def alone(self) -> bool:
        """Whether the records' scores are not measured there."""
        ...

    def given(self, named: Mapping[str, Sequence[Record]]) -> Look:
        """The look, ready for these records.

        Args:
            named: set -> records.

        Raises:
            InputError: where they do not allow it.
        """
        ...

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """About how many records pass through the model, for the progress bar."""
        ...

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """Set -> its records' figures, on the measurer's model at the condition.

        Args:
            measurer: the model and the records.
            condition: where.
            most: of each set, how many are answered freely.
        """
        ...
