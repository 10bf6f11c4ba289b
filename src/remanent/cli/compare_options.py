"""The options of `remanent compare`, made from its settings and from those of a run's two parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from remanent.cli.sweep_options import PAIRS, filled, mapping, option, optional, options_of, owner, split
from remanent.core.catalogue import HOST, edits, unlearners
from remanent.errors import InputError
from remanent.jobs.compare_config import CompareFile, CompareSettings, by_name
from remanent.jobs.config import UnlearnSettings
from remanent.jobs.hyperparameters import typed

METHODS, RATE = "method", "learning_rate"


def _first_part() -> dict[str, Any]:
    fields = CompareSettings.model_fields
    found = {
        METHODS: option(FieldInfo(description="Methods to compare, separated by commas.", default=None), list[str]),
        PAIRS: option(
            FieldInfo(
                description="NAME=VALUE for the methods that have it, METHOD.NAME=VALUE for one: a hyper-parameter or "
                "learning_rate.",
                default=None,
            ),
            list[str],
        ),
        "seeds": option(fields["seeds"], str | None),
    }
    for name in ("budget", "processes", "ray", "keep_models"):
        found[name] = option(fields[name], optional(fields[name].annotation))
    found[RATE] = option(UnlearnSettings.model_fields[RATE], float | None)
    return found


CompareOptions = options_of("CompareOptions", _first_part())


def file_of(options: Any, config: Path | None) -> CompareFile:
    """The comparison that the options ask for; with a file, the file's with the options in place of what it says.

    Raises InputError that names the option, or the file's field.
    """

    def put(given: dict[str, Any], found: dict[str, dict[str, Any]]) -> None:
        for name in CompareSettings.model_fields:
            if given.get(name) is not None:
                found["compare"][name] = given[name]
        if given.get(RATE) is not None:
            found["unlearn"][RATE] = given[RATE]
        said = mapping(by_name(found["compare"].get("methods")), "compare.methods")
        known = {name: mapping(own, f"compare.methods.{name}") for name, own in said.items()}
        methods = {name: known.get(name, {}) for name in split(given.get(METHODS) or []) or known}
        for pair in sorted(given.get(PAIRS) or [], key=_of_a_host):  # whose it is must be known first
            _set(pair, methods)
        if methods:
            found["compare"]["methods"] = methods

    file: CompareFile = filled(CompareFile, options, config, put)
    return file


def _set(pair: str, methods: dict[str, dict[str, Any]]) -> None:
    """Put one NAME=VALUE into the settings of the methods that it is for."""
    path, equals, text = pair.partition("=")
    one, name = owner(path)
    if not equals or (one and one not in methods):
        raise InputError("--set", pair, f"[METHOD.]NAME=VALUE, of one of {', '.join(methods)}")
    known = unlearners()
    given = {
        method: mapping(found.get("hyperparameters"), f"compare.methods.{method}.hyperparameters")
        for method, found in methods.items()
    }
    own_name = {method for method in methods if method in known and name in known[method].accepted(given[method])}
    # What is no edit is trained by the run's own loop, which has a rate.
    trained = {method for method in methods if method not in edits()} if name == RATE else set()
    able = [method for method in methods if method in own_name | trained]
    for method in [one] if one else able or list(methods)[:1]:
        if name == RATE and method not in own_name:
            try:
                methods[method][RATE] = float(text)
            except ValueError:
                raise InputError("--set", pair, "a number") from None
        else:
            naming = known[method].system.host if method in known else ""
            hosted = [f"{naming}={given[method][naming]}"] if naming in given[method] else []
            own = typed(method, [*hosted, f"{name}={text}"])
            methods[method]["hyperparameters"] = {**given[method], **own}


def _of_a_host(pair: str) -> bool:
    return HOST in pair.partition("=")[0]
