"""Unlearning by an edit: one change of the weights in place of a training, and what it did to each set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from remanent.core.batch import Encoded
from remanent.core.catalogue import build_edit, edits
from remanent.core.edit import Edit, EditSettings
from remanent.core.scores import score_records
from remanent.data.encode import encode_all, pad_id
from remanent.errors import InputError
from remanent.jobs.config import UnlearnSettings
from remanent.jobs.data import JobData, spread
from remanent.jobs.progress import Interface
from remanent.models.load import Loaded

OF_A_LOOP = (
    *("steps", "epochs", "learning_rate", "batch_size", "micro_batch", "schedule", "warmup"),
    *("weight_decay", "max_grad_norm"),
)


def edit_of(settings: UnlearnSettings) -> Edit:
    """The edit of a job. Raises InputError for settings that only a training takes."""
    for field in OF_A_LOOP:
        if getattr(settings, field) is not None:
            known = ", ".join(edits()[settings.method].hyperparameters)
            expected = f"nothing, since {settings.method} edits once and has no run of its own; --set takes {known}"
            raise InputError(field, getattr(settings, field), expected)
    if settings.precision != "fp32":
        raise InputError("precision", settings.precision, f"fp32, in which edits such as {settings.method} are made")
    if settings.select != "*":
        raise InputError("select", settings.select, f"'*', since {settings.method} chooses its weights itself")
    edit = build_edit(settings.method, settings.hyperparameters)
    if settings.adapter != "full" and edit.refuses_adapter:
        raise InputError("adapter", settings.adapter, f"full, since {edit.refuses_adapter}")
    return edit


def make_edit(
    edit: Edit, loaded: Loaded, data: JobData, settings: UnlearnSettings, interface: Interface
) -> dict[str, Any]:
    """Edit the model in place; returns the edit's report, with each set's mean answer NLL before and after.

    Warns where it cost the retained records more than half of what it took from the forgotten ones: a collapse shows
    in no other way.
    """

    def encoded(split: Mapping[str, Any], name: str) -> list[Encoded]:
        return encode_all(split[name], loaded.tokenizer, settings.data.max_length) if split else []

    forget = encode_all(data.forget, loaded.tokenizer, settings.data.max_length)
    given = {"forget": forget, "retain": encoded(data.retain, "train")}
    watched = {"forget": forget, "retain": encoded(data.retain, "select"), "control": encoded(data.control, "select")}
    watched = {role: spread(records, settings.evaluate_records) for role, records in watched.items() if records}
    pad = pad_id(loaded.tokenizer)
    before = _nll(loaded, watched, pad)
    total, done = edit.passes({role: len(records) for role, records in given.items()}), 0
    with interface.bar(settings.method) as advance:

        def on_batch(records: int) -> None:
            nonlocal done
            done += records
            advance(min(done, total), total, "")

        def tokens(text: str) -> list[int]:
            return list(loaded.tokenizer(text)["input_ids"])

        options = EditSettings(pad, settings.seed, on_batch, interface.warn, tokens)
        report = edit.edit(loaded.model, {role: given[role] for role in edit.roles}, options).report
    after = _nll(loaded, watched, pad)
    rise = {role: after[role] - before[role] for role in watched}
    if rise.get("retain", 0.0) > 0.5 * max(rise["forget"], 0.0) and rise["retain"] > 0.1:
        interface.warn(
            f"retained records lost {rise['retain']:.2f} nats, forgotten ones {rise['forget']:.2f}: the edit damaged "
            "what was to be kept"
        )
    return {**report, "nll": {role: {"before": before[role], "after": after[role]} for role in watched}}


def _nll(loaded: Loaded, sets: Mapping[str, Sequence[Encoded]], pad: int) -> dict[str, float]:
    return {
        role: float(score_records(loaded.model, records, pad_id=pad).mean_nll.mean()) for role, records in sets.items()
    }
