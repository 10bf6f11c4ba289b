"""The settings of a comparison: which methods, each with settings of its own, over which seeds, at what cost."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from remanent.jobs.config import UnlearnSettings
from remanent.jobs.sweep_config import MethodSettings, Seeds, SweepFile, SweepSettings


def by_name(value: Any) -> Any:
    """Methods with no settings of their own may be a list of names, or have nothing behind their names."""
    if isinstance(value, dict):
        return {name: {} if own is None else own for name, own in value.items()}
    names = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return {name: {} for name in value} if names else value


class CompareSettings(BaseModel):
    """Which methods are compared, at what cost, and how the trials are run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: Annotated[dict[str, MethodSettings], BeforeValidator(by_name)] = Field(
        min_length=1,
        description="Methods by name, each with what is its own in place of the settings below: learning_rate, "
        "hyperparameters, epochs, batch_size and so on; the method's own defaults where neither says anything.",
    )
    seeds: Seeds = Field((0, 1, 2), description="Every method is run with each of them.")
    budget: int = Field(
        ge=1,
        description="Records passed forward and backward in a trial at most, counted at every point; the steps follow.",
    )
    processes: int | None = Field(
        None, ge=1, description="Trials at a time: one where nothing is said, on a Ray cluster what it has room for."
    )
    ray: str | None = Field(
        None, description="Run on a Ray cluster: 'local' starts one on this machine, 'auto' or an address joins one."
    )
    keep_models: bool = Field(False, description="Keep every trial's model; else that of the best alone.")


class CompareFile(BaseModel):
    """A file for `remanent compare` or `remanent run`: a run's two parts, and what is compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    compare: CompareSettings
    unlearn: UnlearnSettings
    audit: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the audit; model, reference and data follow from the trial."
    )

    def as_sweep(self) -> SweepFile:
        """The sweep that the comparison is: a setting for each method, and retraining where a base is named."""
        asked = self.compare
        methods = dict(asked.methods)
        if self.unlearn.base is not None:
            methods.setdefault("retrain", MethodSettings.model_validate({}))
        sweep = SweepSettings(
            method=tuple(methods),
            own=methods,
            **asked.model_dump(include={"seeds", "budget", "processes", "ray", "keep_models"}),
        )
        return SweepFile(sweep=sweep, unlearn=self.unlearn, audit=self.audit)
