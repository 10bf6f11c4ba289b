"""What a run passes through the model, counted from its method before any work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from remanent.core.method import AskingCombine, At, Method, Objective


def learning_passes(method: Method, steps: int) -> Mapping[str, int]:
    """Role -> how often its batch is passed forward and backward in a run of so many updates.

    At every point whose weight is not 0, once for each role of its terms; twice where the point climbs the loss to get
    there; and a term at a time where gradients are combined. A product with a Hessian, whose graph is passed backward
    twice, counts as two.
    """
    found: Counter[str] = Counter()
    for place in method.places:
        names = place.terms or tuple(method.objective.terms)
        taken = _taken(place, steps) * (1 + ("loss" in place.displacement.needs))
        for group in [(name,) for name in names] if method.combine else [names]:
            found.update(dict.fromkeys(_learnt(method, group), taken))
    if isinstance(method.combine, AskingCombine):
        for step in range(1, steps + 1):
            for name in method.combine.products(step, steps):
                found.update(dict.fromkeys(_learnt(method, (name,)), 2))
    return found


def reference_passes(method: Method, steps: int) -> Mapping[str, int]:
    """Role -> how often its batch is passed through the reference model, at most: once in each update that takes one of
    its terms, where the objective asks anything there. The pass that scores `needs_reference` beforehand is not among
    them."""
    if type(method.objective).at_reference is Objective.at_reference:
        return {}
    found: Counter[str] = Counter()
    for step in range(1, steps + 1):
        places = [place for place in method.places if place.weight_at(step, steps) != 0]
        names = tuple(name for place in places for name in place.terms or tuple(method.objective.terms))
        found.update(_roles(method, names))
    return found


def _taken(place: At, steps: int) -> int:
    return sum(place.weight_at(step, steps) != 0 for step in range(1, steps + 1))


def _learnt(method: Method, names: tuple[str, ...]) -> set[str]:
    return _roles(method, names) - method.objective.only_at_reference


def _roles(method: Method, names: tuple[str, ...]) -> set[str]:
    return {role for name in names for role in method.objective.terms[name].roles}
