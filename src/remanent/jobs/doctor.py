"""Doctor: what this machine offers, and what a job would cost on it, before any work."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remanent.core.catalogue import edits, unlearners
from remanent.core.method import Method
from remanent.errors import InputError, UnsupportedError
from remanent.jobs import price
from remanent.jobs.config import JobSettings, TeachSettings, UnlearnSettings, load_yaml, parse
from remanent.jobs.data import JobData, load_data
from remanent.jobs.machine import Machine, machine
from remanent.jobs.price import Price, SetSize, price_audit, price_edit, price_teaching, price_unlearning, set_size
from remanent.jobs.run import read_job
from remanent.jobs.shape import meta_model
from remanent.jobs.teach import taught_and_prompts, teaching_method
from remanent.jobs.unlearn import check_roles, way_of
from remanent.models.lora import add_lora


@dataclass(frozen=True)
class JobEstimate:
    """What a job would cost.

    Args:
        model: its name.
        parameters: of the model, without a LoRA's.
        steps: updates at most.
        prices: of each stage.
        assumed: sentences: what the figures rest on.
        short: sentences: what does not fit on this machine, and what would lower it; none where all fits.
    """

    model: str
    parameters: int
    steps: int
    prices: tuple[Price, ...]
    assumed: tuple[str, ...]
    short: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "model": self.model,
            "parameters": self.parameters,
            "steps": self.steps,
            "prices": [item.to_dict() for item in self.prices],
            "assumed": list(self.assumed),
            "short": list(self.short),
        }


def read_settings(path: Path) -> JobSettings | TeachSettings:
    """The job of a file: the settings of `remanent teach` where it has records, else what `remanent run` takes."""
    data = load_yaml(path)
    if isinstance(data, dict) and "records" in data:
        taught: TeachSettings = parse(TeachSettings, data, str(path))
        return taught
    return read_job(path, Path("runs/doctor"))


def doctor(settings: JobSettings | TeachSettings | None = None) -> tuple[Machine, JobEstimate | None]:
    """Look at the machine, and price a job on it where there is one.

    Args:
        settings: the job; where its records are not named, sets of a stated size are assumed.

    Raises InputError and DataError as the job itself would, and loads no weights.
    """
    if settings is None:
        return machine(), None
    if isinstance(settings, TeachSettings):
        return _of_teaching(settings)
    data = load_data(settings.unlearn.data)
    if settings.unlearn.requests is not None:
        raise InputError("requests", settings.unlearn.requests, "none: price one of them, with its records as forget")
    if data.forget or data.retain:
        check_roles(way_of(settings.unlearn), data, settings.unlearn)
    model = meta_model(settings.unlearn.model)
    parameters = sum(weight.numel() for weight in model.parameters())
    here = machine(width=model.config.get_text_config().hidden_size)
    training, auditing, assumed = _sizes(data)

    def priced(unlearn: UnlearnSettings) -> tuple[Price, int]:
        way, rate = way_of(unlearn), here.rates[unlearn.precision]
        adapted = model
        if unlearn.adapter != "full":
            adapted = add_lora(meta_model(unlearn.model), unlearn.lora_rank, unlearn.lora_alpha)
        if not isinstance(way, Method):
            return price_edit(unlearn, way, adapted, training, rate), 0
        return price_unlearning(unlearn, way, adapted, training, rate)

    first, steps = priced(settings.unlearn)
    others = {}
    if here.room is not None and first.peak > here.room:
        for name, changed in _lighter(settings.unlearn).items():
            with suppress(InputError, UnsupportedError):  # a LoRA where nothing is chosen that one could be put on
                others[name] = priced(changed)[0]
    short = [*too_much(first, others, here.room)]
    prices = [first]
    if settings.audit is not None:
        prices.append(price_audit(settings.audit, model, auditing, here.rates[settings.audit.precision]))
        short += too_much(prices[-1], {}, here.room)
    said = (*assumed, *_ASSUMED)
    return here, JobEstimate(settings.unlearn.model, parameters, steps, tuple(prices), said, tuple(short))


def _of_teaching(settings: TeachSettings) -> tuple[Machine, JobEstimate]:
    method = teaching_method(settings)
    taught, prompts = taught_and_prompts(settings)
    model = meta_model(settings.model)
    here = machine(width=model.config.get_text_config().hidden_size)
    sizes = {"task": set_size(taught)}
    if prompts:
        asked = set_size([replace(record, answer="") for record in prompts])
        sizes["forget"] = replace(asked, tokens=asked.tokens + settings.answer_tokens)

    rate = here.rates[settings.precision]
    first, steps = price_teaching(settings, method, model, sizes, rate)
    one_by_one, _ = price_teaching(settings.model_copy(update={"micro_batch": 1}), method, model, sizes, rate)
    parameters = sum(weight.numel() for weight in model.parameters())
    assumed = (f"Own answers have {settings.answer_tokens} tokens.",) if prompts else ()
    short = too_much(first, {"--micro-batch 1": one_by_one}, here.room)
    return here, JobEstimate(settings.model, parameters, steps, (first,), (*assumed, *_ASSUMED), short)


def _lighter(settings: UnlearnSettings) -> dict[str, UnlearnSettings]:
    """Options -> the settings with them: what may need less memory. All but the first are another job."""
    if settings.method in edits():
        return {}
    found: dict[str, dict[str, Any]] = {"--micro-batch 1": {"micro_batch": 1}}
    if settings.adapter == "full":
        found["--adapter lora"] = {"adapter": "lora"}
    if "directions" in unlearners()[settings.method].hyperparameters:
        found["--set directions=0"] = {"hyperparameters": {**settings.hyperparameters, "directions": 0}}
    return {name: settings.model_copy(update=changes) for name, changes in found.items()}


def too_much(asked: Price, lighter: Mapping[str, Price], room: int | None) -> tuple[str, ...]:
    """A sentence where a stage's peak is beyond the room: by how much, and what it would be with other settings.

    Args:
        asked: of the stage.
        lighter: options -> its price with them; one that takes less than a twentieth off is not named.
        room: bytes; None where it is not known.
    """
    if room is None or asked.peak <= room:
        return ()
    peaks = {name: price.peak for name, price in lighter.items() if price.peak < 0.95 * asked.peak}
    ways = [f"{peaks[name] / 2**30:.1f} with {name}" for name in sorted(peaks, key=lambda name: peaks[name])]
    return (
        f"{asked.stage} needs {asked.peak / 2**30:.1f} GiB of memory, and there are {room / 2**30:.1f} here."
        + (f" It would need {', '.join(ways)}; all but --micro-batch change the result." if ways else ""),
    )


_ASSUMED = (
    f"{price.CHARACTERS_PER_TOKEN:g} characters a token, and {price.TEMPLATE_TOKENS} tokens of chat template a record.",
    f"Training reaches {price.USED_SHARE:.0%} of the speed of the matrix product measured just now, which is low where "
    "other programs ran meanwhile.",
    "6 operations per weight and trained token at each point (4 for a LoRA), twice where a point climbs the loss, and "
    "2 per scored token; rounding, loading and saving are not counted.",
    "Where a method asks its reference during updates, every record of an update passes through it; kept reference "
    "scores are made anew.",
    f"A free answer has {price.ANSWER_TOKENS} tokens, and each passes through the model once, as its prompt does.",
    "No stop before the last step; a stopping rule usually ends a run earlier.",
    "Weights are held in float32 (packed ones in 4 bits), and activations counted as float32, without "
    "gradient checkpointing; bf16 keeps about two thirds of them.",
)


def _sizes(data: JobData) -> tuple[Mapping[str, SetSize], Mapping[str, SetSize], list[str]]:
    """Sizes of the sets that train, sizes of those that are audited, and what was assumed about them."""
    if not data.forget and not data.retain:
        said = ", ".join(f"{count} {role}" for role, count in price.ASSUMED_RECORDS.items())
        sizes = {role: SetSize(count, price.ASSUMED_TOKENS) for role, count in price.ASSUMED_RECORDS.items()}
        return sizes, sizes, [f"No records were named: {said} records of {price.ASSUMED_TOKENS} tokens each."]
    training = {"forget": data.forget, "retain": data.retain.get("train"), "control": data.control.get("select")}
    training["task"] = data.all_retained
    audited = {"forget": data.forget, "retain": data.retain.get("audit"), "control": data.control.get("audit")}
    for role in ("forget", "control"):
        audited[f"{role}-paraphrased"] = [other for record in audited[role] or () if (other := record.paraphrased())]
    audited["text"] = data.text

    def sized(sets: Mapping[str, Any]) -> dict[str, SetSize]:
        return {role: set_size(records) for role, records in sets.items() if records}

    return sized(training), sized(audited), []
