"""The catalogue as plain data, for tables and for other programs."""

from __future__ import annotations

from typing import Any

from remanent.core.catalogue import Entry, systems, unlearners
from remanent.core.taxonomy import TREE
from remanent.errors import InputError, did_you_mean


def described_systems(family: str | None = None) -> list[dict[str, Any]]:
    """Every system, or those of one family. Raises InputError for a family that is not there."""
    found = [_described(entry) for entry in systems().values()]
    families = {item["family"] for item in found}
    if family is not None and family not in families:
        raise InputError("family", family, did_you_mean(family, families))
    return [item for item in found if family in (None, item["family"])]


def described_methods() -> list[dict[str, Any]]:
    """Every method and edit that makes a model forget, with its hyper-parameters and their defaults."""
    return [
        _described(entry) | {"hyperparameters": {name: item.default for name, item in entry.hyperparameters.items()}}
        for entry in unlearners().values()
    ]


def taxonomy() -> list[dict[str, Any]]:
    """The tree of ways to forget: each class with its leaves, and the methods here that belong to each, or none."""
    placed: dict[str, list[str]] = {}
    for entry in unlearners().values():
        placed.setdefault(entry.system.leaf, []).append(entry.system.name)
    return [
        {
            "class": name,
            "title": item.title,
            "removes": item.removes,
            "leaves": [
                {"leaf": leaf, "text": text, "methods": placed.get(f"{name}/{leaf}", [])}
                for leaf, text in item.leaves.items()
            ],
        }
        for name, item in TREE.items()
    ]


def _described(entry: Entry) -> dict[str, Any]:
    system = entry.system
    return {
        "name": system.name,
        "title": system.title,
        "paper": f"arXiv:{system.arxiv}" if system.arxiv else "" if system.card else "ours",
        "year": system.year,
        "family": system.family,
        "needs": list(system.needs),
        "views": list(system.views),
        "notes": system.notes,
        "leaf": system.leaf,
        "description": entry.description,
    }
