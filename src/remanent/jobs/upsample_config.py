"""The settings of finding what is learnt late."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class UpsampleSettings(BaseModel):
    """Find the records that a model learns late."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    data: str = Field(
        description="A CSV file with a header, or a .npz or .safetensors file with 'labels' and with 'outputs' (of an "
        "early model of your own) or 'inputs'."
    )
    label: str | None = Field(None, description="Of a CSV file, the column with the class.")
    skip: str = Field("", description="Of a CSV file, columns that are left out, separated by commas.")
    factor: int = Field(2, ge=1, description="How often a record that is learnt late stands in the new data.")
    early_epochs: int | None = Field(
        None, ge=1, description="Epochs of the early model; by default the elbow of its training error."
    )
    epochs: int = Field(50, ge=3, description="Epochs in which that elbow is looked for.")
    width: int = Field(256, ge=1, description="Of the early model's two hidden layers.")
    learning_rate: float = Field(0.1, gt=0, description="Of SGD, with momentum 0.9 and weight decay 5e-4.")
    batch_size: int = Field(128, ge=1, description="Records per update.")
    rho: float = Field(0.0, ge=0, description="Radius of SAM round it; 0 is SGD alone.")
    seed: int = Field(0, ge=0, description="Of weights, order and k-means.")
    threads: int | None = Field(None, ge=1, description="Threads; part of the result, bit for bit.")
