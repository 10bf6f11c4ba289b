"""Doctor: what this machine offers, and what a job would cost on it, before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remanent.core.catalogue import edits, unlearners
from remanent.core.method import Method
from remanent.jobs import price
from remanent.jobs.config import JobSettings, TeachSettings, load_yaml, parse
from remanent.jobs.data import JobData, load_data
from remanent.jobs.edit import edit_of
from remanent.jobs.machine import Machine, machine
from remanent.jobs.price import Price, SetSize, price_audit, price_edit, price_teaching, price_unlearning, set_size
from remanent.jobs.run import read_job
from remanent.jobs.shape import meta_model
from remanent.jobs.teach import taught_and_prompts, teaching_method
from remanent.jobs.unlearn import build_method
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
    method = edit_of(settings.unlearn) if settings.unlearn.method in edits() else build_method(settings.unlearn)
    data = load_data(settings.unlearn.data)
    model = meta_model(settings.unlearn.model)
    parameters = sum(weight.numel() for weight in model.parameters())
    here = machine(width=model.config.get_text_config().hidden_size)
    unlearned = model
    if settings.unlearn.adapter != "full":
        unlearned = add_lora(
            meta_model(settings.unlearn.model), settings.unlearn.lora_rank, settings.unlearn.lora_alpha
        )
    training, auditing, assumed = _sizes(data)
    rate = here.rates[settings.unlearn.precision]
    if isinstance(method, Method):
        priced, steps = price_unlearning(settings.unlearn, method, unlearned, training, rate)
    else:
        priced, steps = price_edit(method, model, training, rate), 0
    prices = [priced]
    if settings.audit is not None:
        prices.append(price_audit(settings.audit, model, auditing, here.rates[settings.audit.precision]))
    said = (*assumed, *_ASSUMED)
    short = too_much(prices, here.room, adapted=settings.unlearn.adapter != "full", method=settings.unlearn.method)
    return here, JobEstimate(settings.unlearn.model, parameters, steps, tuple(prices), said, short)


def _of_teaching(settings: TeachSettings) -> tuple[Machine, JobEstimate]:
    method = teaching_method(settings)
    taught, prompts = taught_and_prompts(settings)
    model = meta_model(settings.model)
    here = machine(width=model.config.get_text_config().hidden_size)
    sizes = {"task": set_size(taught)}
    if prompts:
        asked = set_size([replace(record, answer="") for record in prompts])
        sizes["forget"] = replace(asked, tokens=asked.tokens + settings.answer_tokens)
    priced, steps = price_teaching(settings, method, model, sizes, here.rates[settings.precision])
    parameters = sum(weight.numel() for weight in model.parameters())
    assumed = (f"Own answers have {settings.answer_tokens} tokens.",) if prompts else ()
    short = too_much([priced], here.room, adapted=False)
    return here, JobEstimate(settings.model, parameters, steps, (priced,), (*assumed, *_ASSUMED), short)


def too_much(prices: Sequence[Price], room: int | None, *, adapted: bool, method: str = "") -> tuple[str, ...]:
    """Sentences on each stage whose peak is beyond the room: by how much, and which settings take most of it off.

    Args:
        prices: of the stages.
        room: bytes; None where it is not known.
        adapted: whether a LoRA trains.
        method: that unlearns; "" where nothing does.
    """
    said = []
    for item in prices:
        if room is None or item.peak <= room:
            continue
        trained = sum(size for name, size in item.memory.items() if name not in ("weights", "activations"))
        batch = "--batch-size" if item.stage == "audit" else "--micro-batch"
        lower = [(item.memory.get("activations", 0.0), f"a smaller {batch}")]
        if item.stage == "unlearn" and not adapted and method not in edits():
            lower.append((trained, "--adapter lora"))
        apart = item.memory.get("gradients kept apart", 0.0)
        if apart and "directions" in unlearners()[method].hyperparameters:
            lower.append((apart, "--set directions=1"))
        ways = [
            f"{way} (of {size / 2**30:.1f} GiB)" for size, way in sorted(lower, reverse=True) if size > 0.05 * item.peak
        ]
        said.append(
            f"{item.stage} needs {item.peak / 2**30:.1f} GiB of memory, and there are {room / 2**30:.1f} here. "
            f"Lower it by {', '.join(ways) or 'a smaller model'}."
        )
    return tuple(said)


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
    audited = {"forget": data.forget, "retain": data.retain.get("audit"), "control": data.control.get("audit")}
    for role in ("forget", "control"):
        audited[f"{role}-paraphrased"] = [other for record in audited[role] or () if (other := record.paraphrased())]
    audited["text"] = data.text

    def sized(sets: Mapping[str, Any]) -> dict[str, SetSize]:
        return {role: set_size(records) for role, records in sets.items() if records}

    return sized(training), sized(audited), []
