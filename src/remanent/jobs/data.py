"""The records of a job, loaded, split and checked before any work starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from remanent.auditing.hashes import keyed_hash
from remanent.core.batch import Encoded
from remanent.core.secret import load_secret
from remanent.data.general_text import general_text
from remanent.data.named import load
from remanent.data.overlap import find_overlap
from remanent.data.record import Message, Record
from remanent.data.splits import CONTROL_SHARES, RETAIN_SHARES, split_by_group
from remanent.errors import InputError
from remanent.jobs.config import DataSettings, Precision


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


def load_records(
    role: str,
    name: str | None,
    system: str | None,
    given: Mapping[str, list[Record]] | None = None,
    *,
    answered: bool = True,
) -> list[Record]:
    """The records of one role: those given, else those named, with the job's system turn before each prompt.

    `answered`: whether a file's rows must have answers.
    """
    if given is not None and role in given:
        records = list(given[role])
    else:
        records = load(name, role, answered=answered) if name else []
    if system is None:
        return records
    turn = Message("system", system)

    def put_before(prompt: tuple[Message, ...]) -> tuple[Message, ...]:
        return (turn, *prompt) if prompt and prompt[0].role != "system" else prompt

    return [
        replace(record, prompt=put_before(record.prompt), paraphrased_prompt=put_before(record.paraphrased_prompt))
        for record in records
    ]


def load_data(
    settings: DataSettings, given: Mapping[str, list[Record]] | None = None, *, unanswered: bool = False
) -> JobData:
    """Load a job's records.

    Args:
        settings: names and paths.
        given: role -> records that are at hand already, and are taken in place of the named ones.
        unanswered: whether BLUR's questions may lack their answers, which `reference_answers` gives.
    """

    def records(role: str) -> list[Record]:
        name = getattr(settings, role)
        may_lack = unanswered and str(name).startswith("blur:")
        return load_records(role, name, settings.system, given, answered=not may_lack)

    retain, control = records("retain"), records("control")
    return JobData(
        records("forget"),
        _split("retain", retain, RETAIN_SHARES, settings.split_seed),
        _split("control", control, CONTROL_SHARES, settings.split_seed),
        records("text") or general_text(),
    )


def overlap(data: JobData) -> tuple[int, list[str], list[str]]:
    """What the sets of a job share that should share nothing.

    Returns:
        How many records and groups; sentences with counts only, for what is published; sentences that name records by
        their keys, for the person who runs the job.
    """
    control = [record for records in data.control.values() for record in records]
    count, public, private = 0, [], []
    for (one, first), (two, second) in (
        (("forget", data.forget), ("retain", data.all_retained)),
        (("forget", data.forget), ("control", control)),
        (("retain", data.all_retained), ("control", control)),
    ):
        if not first or not second:
            continue
        found = find_overlap(first, second, two)
        shared = len(found.identical) + len(found.same_question) + len(found.near_duplicates) + len(found.shared_groups)
        if shared:
            count += shared
            public.append(f"{one} and {two} share {shared} records or groups, which blurs what the figures say.")
            private += [f"{one} and {two}: {sentence}" for sentence in found.sentences()]
    return count, public, private


def input_hashes(data: JobData) -> dict[str, str]:
    """Role -> keyed hash of its records, so that a changed file is noticed and nothing can be read from it."""
    roles = {"forget": data.forget, "retain": data.all_retained, "text": data.text}
    roles["control"] = [record for records in data.control.values() for record in records]
    return {role: records_hash(records) for role, records in roles.items() if records}


def records_hash(records: Sequence[Record]) -> str:
    """Keyed hash of records."""
    return keyed_hash(load_secret(), json.dumps([asdict(record) for record in records], ensure_ascii=False))


def files_digest(files: Mapping[str, str]) -> str:
    """One digest for the files of a model."""
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in sorted(files.items())).encode()).hexdigest()


def best_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_precision() -> Precision:
    """bf16 where this machine computes it faster than float32, which CPUs without its instructions do not."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


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


def spread(records: list[Encoded], most: int) -> list[Encoded]:
    """At most that many records, at even distances, so that every part of a long file is among them."""
    if len(records) <= most:
        return records
    return [records[index * len(records) // most] for index in range(most)]
