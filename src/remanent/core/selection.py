"""Which parameters are meant: by name pattern and by the kind of layer that owns them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from remanent.core.weights import KINDS, Weights
from remanent.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Selection:
    """Parameters whose name matches a pattern and whose layer is of a kind.

    Args:
        names: shell patterns, for example "*.layers.[4-7].*"; one that matches suffices.
        kinds: kinds of layer, from `remanent.core.weights.KINDS`; None is every kind.
        exclude: shell patterns of names to leave out.
    """

    names: tuple[str, ...] = ("*",)
    kinds: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind in self.kinds or ():
            if kind not in KINDS:
                raise InputError("selection.kinds", kind, did_you_mean(kind, KINDS))

    def matches(self, name: str, kind: str) -> bool:
        """Whether a parameter of that name and kind is meant."""
        return (
            (self.kinds is None or kind in self.kinds)
            and any(fnmatchcase(name, pattern) for pattern in self.names)
            and not any(fnmatchcase(name, pattern) for pattern in self.exclude)
        )

    def of(self, weights: Weights) -> Weights:
        """The weights that are meant. Raises InputError when nothing matches."""
        chosen = weights.only(name for name in weights if self.matches(name, weights.kind(name)))
        if not chosen:
            raise InputError("selection", self, f"a selection that matches a parameter; there are {_examples(weights)}")
        return chosen


EVERYTHING = Selection()
LINEARS = Selection(kinds=("linear",))


def _examples(names: Iterable[str], most: int = 4) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
