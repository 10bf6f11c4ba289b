"""A tiny model that really learnt some authors, and a sweep over it that takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from remanent.data.authors import author_sets
from remanent.data.jsonl import write_records
from remanent.jobs.config import TeachSettings
from remanent.jobs.sweep_config import SweepFile
from remanent.jobs.teach import teach
from remanent.models.save import save
from remanent.models.tiny import tiny

ROLES = ("forget", "retain", "control")


class SweepWorld:
    """A folder with records and the model that was taught those to be forgotten and those to be kept."""

    def __init__(self, folder: Path) -> None:
        sets = author_sets(0, 6, 12, 12, 2)
        records = {role: list(getattr(sets, role)) for role in ROLES}
        self.files = {role: folder / f"{role}.jsonl" for role in ROLES}
        for role, file in self.files.items():
            write_records(file, records[role])
        taught = folder / "taught.jsonl"
        write_records(taught, [*records["forget"], *records["retain"]])
        made = tiny([record for part in records.values() for record in part], hidden=64, layers=1, vocabulary=400)
        save(made.model, made.tokenizer, folder / "base")
        settings = TeachSettings(
            model=str(folder / "base"),
            records=str(taught),
            epochs=12,
            learning_rate=5e-3,
            threads=1,
            checkpoint_every=0,
        )
        self.model = teach(settings, folder / "taught").model

    def file(
        self, *, unlearn: dict[str, Any] | None = None, audit: dict[str, Any] | None = None, **sweep: Any
    ) -> SweepFile:
        """A sweep over it; what is not said is small."""
        return SweepFile.model_validate(self.data(unlearn=unlearn, audit=audit, **sweep))

    def data(
        self, *, unlearn: dict[str, Any] | None = None, audit: dict[str, Any] | None = None, **sweep: Any
    ) -> dict[str, Any]:
        """The same as plain data."""
        shared = {
            "model": str(self.model),
            "data": {role: str(file) for role, file in self.files.items()},
            "batch_size": 4,
            "schedule": "constant",
            "warmup": 0.0,
            "evaluate_every": 4,
            "evaluate_records": 8,
            "checkpoint_every": 3,
            "threads": 1,
        }
        return {
            "sweep": {"method": ["npo"], "learning_rate": [3e-3], "seeds": [0], **sweep},
            "unlearn": {**shared, **(unlearn or {})},
            "audit": {"at": "full,int8,int4-row", "generate": 0, **(audit or {})},
        }
