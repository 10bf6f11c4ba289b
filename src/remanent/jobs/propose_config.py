"""The settings of proposing designs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ProposeSettings(BaseModel):
    """Propose designs that should score higher than those of a table."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    table: str = Field(description="A CSV file with a header: a row for each design that was scored.")
    score: str = Field(description="Name of the column with the scores.")
    minimize: bool = Field(False, description="A lower score is better.")
    skip: str = Field("", description="Columns that say nothing of the design, separated by commas.")
    search: Literal["gradient-ascent", "coms", "roma", "bo-qei", "cma-es", "reinforce"] = Field(
        "gradient-ascent", description="How the surrogate is searched; bo-qei and cma-es need the extra 'designs'."
    )
    regularizer: Literal["ignite", "ignite-2", "none"] = Field(
        "ignite", description="Of the surrogate: its coefficient moves, is fixed, or there is none."
    )
    coefficient: float | None = Field(None, ge=0, description="IGNITE's lambda at the start; the paper's by default.")
    rho: float | None = Field(None, gt=0, description="IGNITE's radius; the paper's by default.")
    count: int | None = Field(None, ge=1, description="Designs to propose; 128, or as many as the table has.")
    epochs: int | None = Field(None, ge=1, description="Passes over the table; the search's own by default.")
    width: int | None = Field(None, ge=1, description="Of the surrogate's layers; the search's own by default.")
    seed: int = Field(0, ge=0, description="Of weights, order and draws.")
    threads: int | None = Field(None, ge=1, description="Threads; part of the result, bit for bit.")
