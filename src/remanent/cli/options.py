"""Command-line options made from a job's settings, so that the YAML file, the options and the help say the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from remanent.errors import InputError
from remanent.jobs.config import parse

PANELS = {"data": "Records"}
SETTINGS = "Settings"


@dataclass(frozen=True)
class Option:
    """One field of a settings model as an option.

    Args:
        path: the field, from the model down: ("data", "forget").
        flag: as it is written: "--forget"; of a switch, both ways: "--stop/--no-stop".
        field: pydantic's field.
        panel: under which heading the help shows it.
    """

    path: tuple[str, ...]
    flag: str
    field: FieldInfo
    panel: str

    @property
    def name(self) -> str:
        """The parameter's name."""
        return self.path[-1]

    @property
    def is_pairs(self) -> bool:
        """Whether it collects NAME=VALUE."""
        return get_origin(self.field.annotation) is dict

    @property
    def default(self) -> Any:
        """What holds where nothing is said; None where the field is required."""
        if self.is_pairs:
            return []
        return None if self.field.is_required() else self.field.default


def options(kind: type[BaseModel]) -> list[Option]:
    """The options of a settings model, those of a model inside it among them."""
    found: list[Option] = []

    def add(model: type[BaseModel], path: tuple[str, ...], panel: str) -> None:
        for name, field in model.model_fields.items():
            annotation = field.annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                add(annotation, (*path, name), PANELS.get(name, panel))
            else:
                found.append(Option((*path, name), _flag(name, annotation), field, panel))

    add(kind, (), SETTINGS)
    return found


def from_settings(kind: type[BaseModel], *, optional: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Give a command an option for every field of a settings model, and call it with the model as `settings`.

    Args:
        kind: the settings model.
        optional: where none of its options is given, the command is called with None.

    The command's other parameters stay as they are. A value that the model refuses is an InputError that names the
    option.
    """
    known = options(kind)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [
            item for item in inspect.signature(function, eval_str=True).parameters.values() if item.name != "settings"
        ]
        made = [_parameter(option, optional) for option in known]

        def command(**values: Any) -> Any:
            given = {option.name: values.pop(option.name) for option in known}
            nothing = all(given[option.name] == option.default for option in known)
            settings = None if optional and nothing else _settings(kind, known, given)
            return function(settings=settings, **values)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        parameters = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in [*own, *made]]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {item.name: item.annotation for item in parameters}
        return command

    return decorate


def _flag(name: str, annotation: Any) -> str:
    dashed = name.replace("_", "-")
    if get_origin(annotation) is dict:
        return "--set"
    return f"--{dashed}/--no-{dashed}" if bool in (annotation, *get_args(annotation)) else f"--{dashed}"


def _parameter(option: Option, optional: bool) -> inspect.Parameter:
    field = option.field
    required = field.is_required() and not optional
    metavar = "NAME=VALUE" if option.is_pairs else None
    declared = typer.Option(
        option.flag,
        help=(field.description or "").replace("[", r"\["),
        rich_help_panel=option.panel,
        metavar=metavar,
        show_default=not option.is_pairs,
    )
    kind: Any = list[str] if option.is_pairs else field.annotation
    if field.is_required() and optional:
        kind = kind | None
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else option.default,
        annotation=Annotated[kind, declared],
    )


def _settings(kind: type[BaseModel], known: list[Option], given: Mapping[str, Any]) -> Any:
    data: dict[str, Any] = {}
    for option in known:
        place = data
        for part in option.path[:-1]:
            place = place.setdefault(part, {})
        value = given[option.name]
        if option.is_pairs:
            if value:
                from remanent.jobs.hyperparameters import typed

                place[option.name] = typed(given["method"], value)
        elif value is not None:
            place[option.name] = value
    try:
        return parse(kind, data, "option")
    except InputError as error:
        flags = {".".join(option.path): option.flag.split("/")[0] for option in known}
        field = error.field.removeprefix("option: ")
        raise InputError(flags.get(field, field), error.value, error.expected) from None
