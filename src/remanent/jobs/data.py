"""The records of a job, loaded, split and checked before any work starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from remanent.core.secret import keyed_hash, load_secret
from remanent.data.general_text import general_text
from remanent.data.named import load
from remanent.data.overlap import find_overlap
from remanent.data.record import Record
from remanent.data.splits import CONTROL_SHARES, RETAIN_SHARES, split_by_group
from remanent.errors import InputError
from remanent.jobs.config import DataSettings


@dataclass(frozen=True)
class JobData:
    """Records by role; retain and control by split.

    Args:
        forget: to be forgotten.
        retain: "train", "select" and "audit" -> records; empty where none were given.
        control: "select" and "audit" -> records; empty where none were given.
        text: general text.
    """

    forget: list[Record]
    retain: Mapping[str, list[Record]]
    control: Mapping[str, list[Record]]
    text: list[Record]

    @property
    def all_retained(self) -> list[Record]:
        """Every retained record, for retraining."""
        return [record for records in self.retain.values() for record in records]


def load_data(settings: DataSettings, given: Mapping[str, list[Record]] | None = None) -> JobData:
    """Load a job's records.

    Args:
        settings: names and paths.
        given: role -> records that are at hand already, and are taken in place of the named ones.
    """
    given = given or {}

    def records(role: str) -> list[Record]:
        name = getattr(settings, role)
        return list(given[role]) if role in given else load(name, role) if name else []

    retain, control = records("retain"), records("control")
    return JobData(
        records("forget"),
        _split("retain", retain, RETAIN_SHARES, settings.split_seed),
        _split("control", control, CONTROL_SHARES, settings.split_seed),
        records("text") or general_text(),
    )


def overlap_sentences(data: JobData) -> tuple[int, list[str]]:
    """How many records and groups the forget and retain sets share, and sentences about them that name keys only."""
    if not data.forget or not data.retain:
        return 0, []
    overlap = find_overlap(data.forget, data.all_retained)
    pairs = len(overlap.identical) + len(overlap.same_question) + len(overlap.near_duplicates)
    return pairs + len(overlap.shared_groups), list(overlap.sentences())


def input_hashes(data: JobData) -> dict[str, str]:
    """Role -> keyed hash of its records, so that a changed file is noticed and nothing can be read from it."""
    secret = load_secret()
    roles = {"forget": data.forget, "retain": data.all_retained, "text": data.text}
    roles["control"] = [record for records in data.control.values() for record in records]
    return {
        role: keyed_hash(secret, json.dumps([asdict(record) for record in records], ensure_ascii=False))
        for role, records in roles.items()
        if records
    }


def hasher() -> Callable[[str], str]:
    """A function from a record's key or group to its keyed hash."""
    secret = load_secret()
    return lambda text: keyed_hash(secret, text)


def _split(role: str, records: list[Record], shares: Mapping[str, float], seed: int) -> Mapping[str, list[Record]]:
    if not records:
        return {}
    try:
        return split_by_group(records, shares, seed)
    except InputError as error:
        raise InputError(f"{role}: groups", error.value, error.expected) from None
