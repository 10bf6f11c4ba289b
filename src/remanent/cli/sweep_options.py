"""The options of `remanent sweep`, made from its settings and from those of a run's two parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from remanent.core.catalogue import HOST, unlearners
from remanent.errors import InputError
from remanent.jobs.config import OF_REQUESTS, AuditSettings, DataSettings, UnlearnSettings, load_yaml, parse
from remanent.jobs.hyperparameters import typed
from remanent.jobs.sweep_config import SweepFile, SweepSettings

PAIRS = "set"
# The sweep's own stand in place of the first four; an audit takes the rest from the trial.
_SWEPT = ("method", "learning_rate", "hyperparameters", "seed")
_FOLLOWS = ("model", "reference", "data", "batch_size", "precision", "threads")
_SHARED = ("precision", "threads")


def option(field: FieldInfo, kind: Any) -> tuple[Any, Any]:
    """The field as an option of which one can tell whether it was given; the help says what holds where it was not."""
    description = field.description or ""
    if not field.is_required() and field.default not in (None, (), []):
        description += (
            f" Default: {', '.join(map(str, field.default)) if isinstance(field.default, tuple) else field.default}."
        )
    return kind, Field([] if kind == list[str] else None, description=description)


def _part(kind: type[BaseModel], without: tuple[str, ...]) -> dict[str, Any]:
    fields = {name: field for name, field in kind.model_fields.items() if name not in without}
    return {name: option(field, optional(field.annotation)) for name, field in fields.items()}


def optional(annotation: Any) -> Any:
    """An annotation that also takes None; a list has an empty one for that."""
    return annotation if annotation == list[str] or type(None) in get_args(annotation) else annotation | None


def _sweep_part() -> dict[str, Any]:
    found = {}
    for name, field in SweepSettings.model_fields.items():
        if name == "own":  # of a file alone
            continue
        if name == "hyperparameters":
            found[PAIRS] = option(
                FieldInfo(description=f"NAME=VALUE,VALUE. {field.description}", default=None), list[str]
            )
        elif name == "method":
            found[name] = option(field, list[str])
        else:
            several = str(field.annotation).startswith("tuple")
            found[name] = option(field, str | None if several else optional(field.annotation))
    return found


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid")


UNLEARN, AUDIT = _part(UnlearnSettings, (*_SWEPT, *OF_REQUESTS, "data")), _part(AuditSettings, _FOLLOWS)


def options_of(name: str, first: dict[str, Any]) -> type[BaseModel]:
    """The options of a command: those of its own part, and of the two parts of a run."""
    data = create_model("DataOptions", __base__=_Options, **_part(DataSettings, ()))
    return create_model(name, __base__=_Options, **first, **UNLEARN, data=(data, Field(default=None)), **AUDIT)


SweepOptions = options_of("SweepOptions", _sweep_part())


def file_of(options: Any, config: Path | None) -> SweepFile:
    """The sweep that the options ask for; with a file, the file's with the options in place of what it says.

    Raises InputError that names the option, or the file's field.
    """

    def put(given: dict[str, Any], found: dict[str, dict[str, Any]]) -> None:
        for name in SweepSettings.model_fields:
            if given.get(name) not in (None, []):
                found["sweep"][name] = split(given[name]) if name == "method" else given[name]
        if given.get(PAIRS):
            found["sweep"]["hyperparameters"] = _values(given[PAIRS], found)

    file: SweepFile = filled(SweepFile, options, config, put)
    return file


def filled(
    kind: type[BaseModel],
    options: Any,
    config: Path | None,
    put: Callable[[dict[str, Any], dict[str, dict[str, Any]]], None],
) -> Any:
    """A file's settings, with the options in place of what it says.

    Args:
        kind: the file's model.
        options: those that were given; None where there are none.
        config: the file; None where there is none.
        put: told of the options and of what was found for each part, puts those of the first part in place.
    """
    data = mapping(load_yaml(config), str(config)) if config is not None else {}
    given = {} if options is None else options.model_dump()
    found = {part: mapping(data.get(part), part) for part in kind.model_fields}
    records = {name: value for name, value in (given.pop("data", None) or {}).items() if value is not None}
    if records:
        found["unlearn"]["data"] = {**mapping(found["unlearn"].get("data"), "unlearn.data"), **records}
    elif config is None:
        found["unlearn"]["data"] = {}
    for name, value in given.items():
        if value is None or value == []:
            continue
        if name in UNLEARN:
            found["unlearn"][name] = value
        if name in AUDIT or name in _SHARED:
            found["audit"][name] = value
    put(given, found)
    unknown = {name: value for name, value in data.items() if name not in found}
    try:
        return parse(kind, {**found, **unknown}, str(config) if config else "option")
    except InputError as error:
        if config is not None:
            raise
        name = [part for part in error.field.split(".") if not part.isdigit()][-1]
        raise InputError(f"--{name.replace('_', '-')}", error.value, error.expected) from None


def split(texts: list[str]) -> list[str]:
    """Names, from options that may each have several, separated by commas."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def owner(path: str) -> tuple[str, str]:
    """The method that "METHOD.NAME" is for, "" where it is for all, and the name, which may be one of a host's."""
    method, dot, name = path.partition(".")
    return (method, name) if dot and not path.startswith(HOST) else ("", path)


def _values(pairs: list[str], found: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
    """Values by hyper-parameter, typed as the first method has them that knows it.

    Numbers are separated by commas; text is one value, and more of it comes by giving the option again.
    """
    swept = (
        found["sweep"].get("method") or found["unlearn"].get("method") or UnlearnSettings.model_fields["method"].default
    )
    swept = split([swept]) if isinstance(swept, str) else swept
    known = unlearners()
    # Of a method that is put round others, each of which has hyper-parameters of its own.
    naming = {known[item].system.host for item in swept if item in known} - {""}
    hosted = [text for name, _, text in (pair.partition("=") for pair in pairs) if owner(name)[1] in naming]
    said = mapping(found["unlearn"].get("hyperparameters"), "unlearn.hyperparameters")
    hosted = hosted or [said[name] for name in naming if said.get(name)]
    result: dict[str, list[Any]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError("--set", pair, "name=value,value, for example beta=0.1,0.2")
        own, key = owner(name)
        named = [own] if own else swept
        hosts = [{name: host} for name in naming for host in hosted] if key.startswith(HOST) else []
        method, given, parameters = next(
            (
                (item, given, accepted)
                for item in named
                for given in hosts or [{}]
                if item in known and key in (accepted := known[item].accepted(given))
            ),
            (named[0], {}, {}),
        )
        whole = key in parameters and isinstance(parameters[key].default, str)
        before = [f"{other}={value}" for other, value in given.items()]
        for part in [text] if whole else text.split(","):
            result.setdefault(name, []).append(typed(method, [*before, f"{key}={part.strip()}"])[key])
    return result


def mapping(value: Any, field: str) -> dict[str, Any]:
    """A part of a file, to be changed; an empty one where nothing is said."""
    if value is not None and not isinstance(value, dict):
        raise InputError(field, value, "a mapping of settings")
    return dict(value or {})
