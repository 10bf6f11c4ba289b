"""A method's hyper-parameters from text, typed as the method's own signature has them."""

from __future__ import annotations

from collections.abc import Sequence

from remanent.core.catalogue import edits, methods, unlearners
from remanent.errors import InputError, did_you_mean
from remanent.jobs.config import PLAIN

Value = float | int | str | bool
_SWITCHES = {"true": True, "false": False}


def typed(method: str, pairs: Sequence[str]) -> dict[str, Value]:
    """Hyper-parameters by name.

    Args:
        method: name of the method.
        pairs: each "name=value"; of a name that is given twice, the last counts. "host.NAME" is one of the method that
            `objective` names, where the method is put round another.

    Raises InputError for a method, a name or a value that is not right.
    """
    known = {**methods(), **edits()}
    if method == PLAIN:
        raise InputError("hyper-parameter", pairs[0], "none, since plain teaching has no hyper-parameters")
    if method not in known:
        raise InputError("method", method, did_you_mean(method, unlearners()))
    parameters = known[method].accepted(dict(pair.split("=", 1) for pair in pairs if "=" in pair))
    found: dict[str, Value] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError("hyper-parameter", pair, "name=value, for example beta=0.2")
        if name not in parameters:
            expected = did_you_mean(name, parameters) if parameters else "none: the method has no hyper-parameters"
            raise InputError(f"hyper-parameter of {method}", name, expected)
        if any(f",{other}=" in text.replace(" ", "") for other in parameters):
            raise InputError("hyper-parameter", pair, "one name=value; give the option again for each other one")
        found[name] = _value(f"{method}.{name}", text, parameters[name].default)
    return found


def _value(field: str, text: str, default: Value) -> Value:
    if isinstance(default, bool):
        if text.lower() not in _SWITCHES:
            raise InputError(field, text, "true or false")
        return _SWITCHES[text.lower()]
    if isinstance(default, str):
        return text
    kind, expected = (int, "a whole number") if isinstance(default, int) else (float, "a number")
    try:
        return kind(text)
    except ValueError:
        raise InputError(field, text, f"{expected}, as its default {default!r} is") from None
