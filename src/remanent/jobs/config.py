"""One model of settings per job: the YAML file, the command line's options and the docs all come from here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from remanent.core.files import write_atomic
from remanent.errors import InputError, did_you_mean

Adapter = Literal["full", "lora", "lora-nf4"]
Precision = Literal["fp32", "bf16"]
PLAIN = "plain"  # teaching without forgetting


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    came_later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_what_came_later(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Run folders and sweeps know their settings by what is written: what came later stands there where it is
        not the default, so that earlier ones go on."""
        written: dict[str, Any] = write(self)
        fields = type(self).model_fields
        return {
            name: value
            for name, value in written.items()
            if name not in self.came_later or getattr(self, name) != fields[name].get_default(call_default_factory=True)
        }


class DataSettings(_Settings):
    """The records of a job: paths of JSON Lines files, or names such as "authors:forget" or "tofu:forget01"."""

    forget: str | None = Field(None, description="Records to be forgotten.")
    retain: str | None = Field(None, description="Records to be kept.")
    control: str | None = Field(
        None, description="Records of the same kind that no model has seen: the yardstick of forgetting."
    )
    text: str | None = Field(None, description="General text for perplexity; the embedded passages by default.")
    system: str | None = Field(
        None, description="System turn put before every prompt; the chat template's own where nothing is said."
    )
    split_seed: int = Field(0, ge=0, description="Decides which groups train, select and audit.")
    max_length: int | None = Field(None, ge=8, description="Longest record, in tokens; answers are cut.")


class TeachSettings(_Settings):
    """Fine-tune a model on records."""

    model: str = Field(description="The model to teach: a folder, a .gguf file, a hub name.")
    records: str = Field(description="What it is taught: a JSON Lines file or a name.")
    method: Literal["plain", "learning-with-forgetting"] = Field(
        "plain", description="Plain fine-tuning, or what the model knows that stands against it is unlearned meanwhile."
    )
    forget: str | None = Field(
        None, description="Prompts whose own answers are what may be forgotten; answers are not needed."
    )
    hyperparameters: dict[str, float | int | str | bool] = Field(
        default_factory=dict, description="The method's own settings; its defaults where nothing is said."
    )
    answer_tokens: int = Field(48, ge=1, description="Longest own answer to a prompt of --forget, in tokens.")
    system: str | None = Field(None, description="System turn put before every prompt.")
    max_length: int | None = Field(None, ge=8, description="Longest record, or prompt with its own answer, in tokens.")
    epochs: float = Field(10.0, gt=0, description="Passes over the records.")
    learning_rate: float = Field(5e-5, gt=0, description="Of AdamW.")
    batch_size: int = Field(8, ge=1, description="Records per update.")
    micro_batch: int | None = Field(None, ge=1, description="Records per forward pass; saves memory.")
    schedule: Literal["constant", "linear", "cosine"] = Field("linear", description="Of the learning rate.")
    select: str = Field("*", description="Weights that train: shell patterns of names, separated by commas.")
    precision: Precision = Field("fp32", description="Of the arithmetic; weights stay float32.")
    seed: int = Field(0, ge=0, description="Of the order of records and of dropout.")
    checkpoint_every: int = Field(50, ge=0, description="Updates between checkpoints; 0 writes none.")
    threads: int | None = Field(None, ge=1, description="Threads; part of the result, bit for bit.")


# What is said of forgetting while a model is taught; plain teaching has none of it.
OF_FORGETTING = ("method", "forget", "hyperparameters", "answer_tokens")


class UnlearnSettings(_Settings):
    """Make a model forget."""

    came_later = ("audit_epsilon", "audit_upsilon", "audit_require", "audit_attack_learning_rate")

    model: str = Field(description="The model that knows too much: a folder, a .gguf file, a hub name.")
    data: DataSettings
    method: str = Field("flat-durable", description="Name of the method; `remanent methods` lists them.")
    hyperparameters: dict[str, float | int | str | bool] = Field(
        default_factory=dict, description="The method's own settings; the paper's where nothing is said."
    )
    base: str | None = Field(None, description="The model before it was taught; retraining starts from it.")
    adapter: Adapter = Field("full", description="Train all weights, a LoRA, or a LoRA on an NF4 base.")
    lora_rank: int = Field(16, ge=1, description="Rank of the LoRA.")
    lora_alpha: int = Field(32, ge=1, description="Scale of the LoRA: alpha / rank.")
    steps: int | None = Field(None, ge=1, description="Updates at most; the method's own where nothing is said.")
    epochs: float | None = Field(None, gt=0, description="Passes over the forget set, where no steps are given.")
    learning_rate: float | None = Field(None, gt=0, description="Of AdamW; the method's own where nothing is said.")
    batch_size: int | None = Field(None, ge=1, description="Records of each role per update.")
    micro_batch: int | None = Field(None, ge=1, description="Records per forward pass; saves memory.")
    schedule: Literal["constant", "linear", "cosine"] | None = Field(None, description="Of the learning rate.")
    warmup: float | None = Field(None, ge=0, lt=1, description="Share of the run over which the rate rises.")
    weight_decay: float | None = Field(None, ge=0, description="AdamW's; the method's own where nothing is said.")
    max_grad_norm: float | None = Field(None, gt=0, description="Norm to which gradients are clipped.")
    select: str = Field("*", description="Weights that train: shell patterns of names, separated by commas.")
    precision: Precision = Field("fp32", description="Of the arithmetic; weights stay float32.")
    seed: int = Field(0, ge=0, description="Of the order of records and of dropout.")
    stop: bool = Field(True, description="Stop when the forget set is no better known than the control.")
    stop_at: str = Field("full,int4-row", description="Conditions at which the stopping rule must hold.")
    stop_margin: float = Field(0.0, description="Nats by which the forget NLL may stay below the control's.")
    evaluate_every: int = Field(10, ge=0, description="Updates between evaluations.")
    evaluate_records: int = Field(64, ge=2, description="Records of each set that an evaluation scores at most.")
    checkpoint_every: int = Field(50, ge=0, description="Updates between checkpoints; 0 writes none.")
    threads: int | None = Field(None, ge=1, description="Threads; part of the result, bit for bit.")
    requests: str | None = Field(
        None, description="Deletion requests, one after another: a folder of .jsonl files, a .jsonl file, or a name."
    )
    retrained: str | None = Field(None, description="With requests: a model that never saw what they ask for.")
    curve_every: int = Field(10, ge=0, description="Requests between points of the curve; 0: only after the last.")
    curve_generate: int = Field(32, ge=0, description="Records of each set answered freely at a point of the curve.")
    audit_every: int = Field(0, ge=0, description="Requests between audits, for a chain of certificates; 0 is none.")
    audit_at: str = Field("full,int4-row", description="Conditions of those audits.")
    audit_epsilon: float = Field(0.25, gt=0, description="Their epsilon: nats by which forget may be better known.")
    audit_upsilon: float = Field(0.9, gt=0, le=1, description="Their upsilon: share of the knowledge that is kept.")
    audit_attack_learning_rate: float = Field(2e-5, gt=0, description="AdamW's, in their attacks that relearn.")
    audit_require: list[str] = Field([], description="A limit on a measure of theirs; several may be given.")
    keep_models: bool = Field(False, description="Save the model after every request, not only after the last.")


# What is said of deletion requests, one after another; a plain run and a sweep have none of it.
OF_REQUESTS = (
    "requests",
    "retrained",
    "curve_every",
    "curve_generate",
    "audit_every",
    "audit_at",
    "audit_epsilon",
    "audit_upsilon",
    "audit_attack_learning_rate",
    "audit_require",
    "keep_models",
)


class AuditSettings(_Settings):
    """Ask a saved model what it still knows, at every condition it may meet."""

    came_later = ("attack_learning_rate",)

    model: str = Field(description="The model to audit.")
    data: DataSettings
    reference: str | None = Field(None, description="The model before unlearning.")
    retrained: str | None = Field(None, description="A model that never saw the forget set, where there is one.")
    at: str = Field("standard", description="Conditions, separated by commas, or 'standard' or 'thorough'.")
    attack_seeds: int = Field(3, ge=1, description="Seeds over which a random attack is repeated.")
    attack_learning_rate: float = Field(2e-5, gt=0, description="AdamW's, in attacks that relearn.")
    epsilon: float = Field(0.25, gt=0, description="Nats by which forget may be better known than the control.")
    epsilon_over: float = Field(1.0, gt=0, description="Nats above the control that count as overdone.")
    upsilon: float = Field(0.9, gt=0, le=1, description="Share of the retained knowledge that must be kept.")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="One-sided error of each bound.")
    membership_margin: float = Field(0.1, gt=0, lt=0.5, description="AUC from chance at which membership is told.")
    perplexity_factor: float = Field(1.2, ge=1, description="Times the original's general-text perplexity allowed.")
    require: list[str] = Field([], description="A limit on a measure, such as 'recall>=0.5'; several may be given.")
    generate: int = Field(50, ge=0, description="Records per set answered freely at full and worst precision.")
    truth_ratio: bool = Field(True, description="Score wrong answers too, where the records have them.")
    batch_size: int = Field(16, ge=1, description="Records per forward pass.")
    precision: Precision = Field("fp32", description="Of the arithmetic.")
    threads: int | None = Field(None, ge=1, description="Threads.")


class SharpnessSettings(_Settings):
    """Measure how flat the loss of some records is around a model."""

    model: str = Field(description="The model to look at: a folder, a .gguf file, a hub name.")
    data: str = Field(description="Sets of records, separated by commas: JSON Lines files or names.")
    other: str | None = Field(
        None, description="The model before (fine-tuning, unlearning): the path between both, and straggler layers."
    )
    at: str = Field("full", description="Precisions at which to look, separated by commas.")
    measures: str = Field("standard", description="Measures, separated by commas, or 'standard' or 'all'.")
    definitions: str = Field(
        "average-l2-element-0.02,worst-l2-element-0.5,worst-l2-0.05",
        description="Definitions of sharpness, separated by commas: case, norm, scale, radius, -normalized.",
    )
    select: str = Field("*", description="Weights that are perturbed: shell patterns of names, separated by commas.")
    system: str | None = Field(None, description="System turn put before every prompt.")
    max_length: int | None = Field(None, ge=8, description="Longest record, in tokens.")
    records: int = Field(32, ge=2, description="Records of each set that are looked at, at most.")
    batch_size: int = Field(8, ge=1, description="Records per batch; part of a definition (m-sharpness).")
    steps: int = Field(20, ge=1, description="Steps of Auto-PGD, and random points.")
    products: int = Field(12, ge=2, description="Products with the Hessian for an eigenvalue or a spectrum.")
    points: int = Field(11, ge=3, description="Points of a landscape's axis and of a path.")
    reach: float = Field(0.5, gt=0, description="How far a landscape goes, in lengths of the filters.")
    noise: float = Field(0.02, gt=0, description="Standard deviation of the noise of 'noise', on every weight alike.")
    seed: int = Field(0, ge=0, description="Of random points and directions.")
    threads: int | None = Field(None, ge=1, description="Threads; part of the result, bit for bit.")


class ControlsSettings(_Settings):
    """Make unseen control records by swapping the entities of the forget records."""

    forget: str = Field(description="The records to be forgotten: a JSON Lines file or a name.")
    model: str = Field(description="A base model that saw neither: a folder, a .gguf file, a hub name.")
    margin: float = Field(0.25, gt=0, description="Nats by which control and forget may differ on the base.")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="One-sided error of each bound.")
    seed: int = Field(0, ge=0, description="Draws the new names and numbers.")
    draws: int = Field(8, ge=1, le=1000, description="Draws for each group, of which the one that is as hard is taken.")
    system: str | None = Field(None, description="System turn put before every prompt.")
    max_length: int | None = Field(None, ge=8, description="Longest record, in tokens.")
    batch_size: int = Field(16, ge=1, description="Records per forward pass.")
    precision: Precision = Field("fp32", description="Of the arithmetic.")
    threads: int | None = Field(None, ge=1, description="Threads.")


class JobSettings(_Settings):
    """A file for `remanent run`: unlearn, then audit what came of it."""

    unlearn: UnlearnSettings
    audit: AuditSettings | None = None


class DemoSettings(_Settings):
    """The main job on embedded data: teach, get a deletion request, unlearn twice, audit, certify, verify, report."""

    model: str = Field("smollm2-135m", description="The base model; 'tiny' makes one on the spot.")
    seed: int = Field(0, ge=0, description="Of the fictitious authors and of training.")
    forget: int = Field(12, ge=2, description="Authors to be forgotten.")
    retain: int = Field(24, ge=6, description="Authors to be kept.")
    control: int = Field(24, ge=4, description="Authors that no model sees.")
    questions: int = Field(2, ge=1, le=8, description="Questions for each author.")
    teaching_epochs: float = Field(4.0, gt=0, description="Passes over the taught records.")
    teaching_rate: float = Field(2e-4, gt=0, description="Learning rate of teaching.")
    steps: int = Field(20, ge=4, description="Steps of either way of unlearning, which pass equally many records.")
    learning_rate: float = Field(6e-5, gt=0, description="Learning rate of unlearning.")
    at: str = Field("full,int8,int4-row,int4-g32,nf4", description="Conditions of the audit.")
    generate: int = Field(3, ge=0, description="Records per set answered freely.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="Of the arithmetic.")
    threads: int | None = Field(None, ge=1, description="Threads.")


def parse(kind: type[BaseModel], data: Any, source: str) -> Any:
    """Settings from plain data. Raises InputError that names the field, the value and what would be right."""
    if not isinstance(data, dict):
        raise InputError(source, type(data).__name__, "a mapping of settings")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            names = _fields(kind, first["loc"][:-1])
            raise InputError(f"{source}: {where}", first["input"], did_you_mean(str(first["loc"][-1]), names)) from None
        if first["type"] == "missing":
            raise InputError(f"{source}: {where}", None, "a value: this setting is required") from None
        raise InputError(f"{source}: {where}", first["input"], _lower(first["msg"])) from None


def read_yaml(path: Path, kind: type[BaseModel]) -> Any:
    """Settings from a YAML file."""
    return parse(kind, load_yaml(path), str(path))


def load_yaml(path: Path) -> Any:
    """The plain data of a YAML file. Raises InputError where it cannot be read or is not YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError("config", str(path), f"a YAML file that can be read ({error.strerror})") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        raise InputError("config", f"{path}{place}", f"YAML: {getattr(error, 'problem', error)}") from None


def with_threads(settings: Any, config: Path) -> Any:
    """The settings with threads, which are part of a result: where none are asked for, those that the run's config.yaml
    names, else as many as this process uses."""
    if settings.threads is not None:
        return settings
    import torch

    began = load_yaml(config) if config.is_file() else None
    threads = began.get("threads") if isinstance(began, dict) else None
    return settings.model_copy(update={"threads": threads or torch.get_num_threads()})


def write_yaml(path: Path, settings: BaseModel) -> None:
    """Settings as a YAML file that runs again as it is."""
    write_atomic(path, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _fields(kind: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        annotation = kind.model_fields[part].annotation
        options = getattr(annotation, "__args__", (annotation,))
        kind = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return list(kind.model_fields)


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
