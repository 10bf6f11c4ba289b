"""A first file for `remanent run`, made from the settings themselves."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel

from remanent.core.files import write_atomic
from remanent.core.run_folder import check_writable
from remanent.errors import InputError
from remanent.jobs.compare_config import CompareSettings
from remanent.jobs.config import AuditSettings, UnlearnSettings
from remanent.jobs.sweep_config import SweepSettings

_WIDTH = 100
_FOLLOWS = "follows from the run where nothing is said"
_IMPLIED = ("model", "reference", "data")
_HEAD = """\
# A file for `remanent run`: unlearn, then audit what came of it.
# Every setting stands here with its default; those marked REQUIRED have none. null: nothing is said.
"""
_HEADS = {
    "sweep": """\
# A file for `remanent sweep`: what varies, and what every trial shares. A list replaces the same setting below.
# Every setting stands here with its default; those marked REQUIRED have none. null: nothing is said.
""",
    "compare": """\
# A file for `remanent compare`: which methods, at what cost, and what every trial shares. A method's own settings
# replace those below; `remanent methods` lists the methods.
# Every setting stands here with its default; those marked REQUIRED have none. null: nothing is said.
""",
}
_PARTS: dict[str, type[BaseModel]] = {"sweep": SweepSettings, "compare": CompareSettings}


def init(out: Path, *, kind: str = "run") -> Path:
    """Write a commented file with every setting of an unlearning job and its audit, of a sweep or of a comparison.

    Args:
        out: the file. Raises InputError where one is there already, since a user may have filled it in.
        kind: "run", "sweep" or "compare".
    """
    if out.exists():
        raise InputError("out", str(out), "a path where no file is: settings are never overwritten")
    check_writable(out.parent)
    write_atomic(out, template(kind))
    return out


def template(kind: str = "run") -> str:
    """The file's text."""
    many = kind in _PARTS
    return (
        (_HEADS[kind] + f"\n{kind}:\n" + "".join(_lines(_PARTS[kind], "  ", {})) if many else _HEAD)
        + "\nunlearn:\n"
        + "".join(_lines(UnlearnSettings, "  ", {}))
        + (
            "\naudit:\n"
            if many
            else "\n# Leave the audit out for one with these defaults; `audit: null` for none.\naudit:\n"
        )
        + "".join(_lines(AuditSettings, "  ", dict.fromkeys(_IMPLIED, _FOLLOWS)))
    )


def _lines(kind: type[BaseModel], indent: str, implied: dict[str, str]) -> list[str]:
    found: list[str] = []
    for name, field in kind.model_fields.items():
        annotation = field.annotation
        inner = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        said = implied.get(name) or ("" if inner or not field.is_required() else "REQUIRED")
        described = field.description or (_first_line(inner) if inner else "")
        choices = _choices(annotation)
        parts = [described, f"One of {', '.join(choices)}." if choices else "", f"({said})" if said else ""]
        comment = textwrap.wrap(" ".join(part for part in parts if part), _WIDTH - len(indent))
        found += [f"{indent}# {line}\n" for line in comment]
        if inner and not implied.get(name):
            found.append(f"{indent}{name}:\n")
            found += _lines(inner, indent + "  ", {})
            continue
        default = field.get_default(call_default_factory=True) if not field.is_required() else None
        found.append(f"{indent}{_spelled(name, default)}\n")
    return found


def _spelled(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return f"{name}: {yaml.safe_dump(list(value), default_flow_style=True).strip()}"
    return yaml.safe_dump({name: value}, default_flow_style=False, allow_unicode=True, width=10_000).strip()


def _choices(annotation: Any) -> list[str]:
    """The values of a Literal, also of one that may be None."""
    if get_origin(annotation) is not None and all(isinstance(item, str) for item in get_args(annotation)):
        return list(get_args(annotation))
    return next((found for part in get_args(annotation) if (found := _choices(part))), [])


def _first_line(kind: Any) -> str:
    return (kind.__doc__ or "").strip().split("\n")[0]
