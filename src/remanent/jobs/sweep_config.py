"""The settings of a sweep: what varies, at what cost, and how the trials are run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from remanent.jobs.config import AuditSettings, UnlearnSettings

Value = float | int | str | bool


def _listed(value: Any) -> Any:
    """A list, from one value or from text with commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value if isinstance(value, list | tuple) else [value]


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Rates = Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_listed)]
Weights = Annotated[tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(_listed)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_listed)]
# Text is one value: the comma of "int4-row,nf4" is its own.
Values = Annotated[
    tuple[Value, ...], BeforeValidator(lambda value: value if isinstance(value, list | tuple) else [value])
]


class MethodSettings(BaseModel):
    """Settings of one method alone, in place of those that all share; each as in `unlearn`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    learning_rate: float | None = Field(None, gt=0)
    batch_size: int | None = Field(None, ge=1)
    micro_batch: int | None = Field(None, ge=1)
    schedule: Literal["constant", "linear", "cosine"] | None = None
    warmup: float | None = Field(None, ge=0, lt=1)
    weight_decay: float | None = Field(None, ge=0)
    max_grad_norm: float | None = Field(None, gt=0)
    hyperparameters: dict[str, Value] = Field(default_factory=dict)


class SweepSettings(BaseModel):
    """What varies from trial to trial, and how trials are run. Whatever is not named is as `unlearn` says."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: Names = Field((), description="Methods to compare.")
    learning_rate: Rates = Field((), description="Learning rates, separated by commas.")
    retain_weight: Weights = Field((), description="Weights of the retain loss, for methods that have one.")
    hyperparameters: dict[str, Values] = Field(
        default_factory=dict,
        description="Values of a hyper-parameter, for methods that have it; npo.beta is that of one method.",
    )
    own: dict[str, MethodSettings] = Field(
        default_factory=dict,
        description="By method, settings that are its own in place of those below: steps, epochs, learning_rate, "
        "batch_size, micro_batch, schedule, warmup, weight_decay, max_grad_norm, hyperparameters.",
    )
    seeds: Seeds = Field((0, 1, 2), description="Development seeds: every setting is run with each of them.")
    fresh_seeds: Seeds = Field((), description="Seeds with which only the chosen setting is run, once it is chosen.")
    budget: int | None = Field(
        None,
        ge=1,
        description="Records passed forward and backward in a trial, counted at every point. With steps the batch size "
        "follows from it, else the steps do.",
    )
    search: int | None = Field(
        None, ge=1, description="Settings to try between the values given, by Optuna; else every combination is run."
    )
    search_seed: int = Field(0, ge=0, description="Of the search.")
    processes: int | None = Field(
        None, ge=1, description="Trials at a time: one where nothing is said, on a Ray cluster what it has room for."
    )
    ray: str | None = Field(
        None, description="Run on a Ray cluster: 'local' starts one on this machine, 'auto' or an address joins one."
    )
    keep_models: bool = Field(False, description="Keep every trial's model; else it is deleted once it is audited.")


# How trials are run, which changes no figure: a sweep may go on with others.
EXECUTION = ("processes", "ray", "keep_models")


class SweepFile(BaseModel):
    """A file for `remanent sweep` or `remanent run`: a run's two parts, and what varies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sweep: SweepSettings
    unlearn: UnlearnSettings
    audit: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the audit; model, reference and data follow from the trial."
    )


class Trial(BaseModel):
    """One run of a sweep, complete: nothing but this decides what it finds.

    Args:
        setting: names everything but the seed, for example "npo-1f2e3d4c".
        fresh: whether its seed took no part in choosing.
        reference: whether it is what the others are measured to: retraining.
        passes: records that it passes forward and backward at most.
        unlearn, audit: its two jobs; the audit's model follows from where it is run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    setting: str
    fresh: bool
    reference: bool
    passes: int
    unlearn: UnlearnSettings
    audit: AuditSettings

    @property
    def name(self) -> str:
        """Names it, and its folder."""
        return f"{self.setting}-seed{self.unlearn.seed}"
