"""Finished measurements on disk, so that an audit that was cut off goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from remanent.auditing.condition import Condition
from remanent.auditing.evidence import Measurement, measurement_from_dict, measurement_to_dict
from remanent.auditing.text_score import TextScore
from remanent.core.files import read_json, write_json
from remanent.core.run_folder import versions
from remanent.data.record import Record
from remanent.errors import IntegrityError


class Store:
    """Finished measurements of one subject on disk, under a key that names everything they depend on.

    Args:
        folder: where the folders of all subjects lie; None keeps nothing.
        subject: whose measurements.
        files: name -> SHA-256 of the files that were loaded.
        named: the records that are asked.
        how: what else decides a score, as plain data: batch size, dtype of the arithmetic, device ...
        hashed: keyed hash.
    """

    def __init__(
        self,
        folder: Path | None,
        subject: str,
        files: Mapping[str, str],
        named: Mapping[str, Sequence[Record]],
        how: Sequence[Any],
        hashed: Callable[[str], str],
    ) -> None:
        key = json.dumps(
            [
                dict(files),
                {name: [asdict(record) for record in records] for name, records in named.items()},
                *how,
                torch.get_num_threads(),
                versions(),
            ],
            sort_keys=True,
        )
        # Keyed, since a plain digest would let a reader of the folder test guesses of what was forgotten.
        digest = hashed(key)[:16]
        self.folder = None if folder is None else folder / f"{subject}-{digest}"

    def kept(self, condition: Condition, seed: int | None, on_kept: Callable[[int], None]) -> list[Measurement] | None:
        """The measurements that an earlier, cut-off audit made; None where it made none."""
        data = self._read(_file_name(condition, seed))
        if data is None or data["condition"] != _described(condition):
            return None
        found = [measurement_from_dict(item) for item in data["measurements"]]
        on_kept(sum(len(item.scores) for item in found))
        return found

    def keep(self, condition: Condition, seed: int | None, found: list[Measurement]) -> list[Measurement]:
        """Write measurements down, and return them."""
        what = {"condition": _described(condition), "measurements": [measurement_to_dict(item) for item in found]}
        self._write(_file_name(condition, seed), what)
        return found

    def kept_answers(self, condition: Condition) -> dict[tuple[str, str], float] | None:
        """Scores of generated answers that an earlier audit made; None where it made none."""
        data = self._read(f"answers-{_file_name(condition, None)}")
        if data is None or data["condition"] != _described(condition):
            return None
        return {(name, key): value for name, key, value in data["answers"]}

    def keep_answers(self, condition: Condition, scores: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
        """Write scores of generated answers down, and return them."""
        rows = [[name, key, value] for (name, key), value in scores.items()]
        self._write(f"answers-{_file_name(condition, None)}", {"condition": _described(condition), "answers": rows})
        return scores

    def kept_texts(self, condition: Condition) -> dict[str, list[TextScore]] | None:
        """Records' figures by set that an earlier audit made; None where it made none."""
        data = self._read(f"texts-{_file_name(condition, None)}")
        if data is None or data["condition"] != _described(condition):
            return None
        return {
            records: [
                TextScore(key, group, {name: math.nan if value is None else value for name, value in values.items()})
                for key, group, values in rows
            ]
            for records, rows in data["texts"].items()
        }

    def keep_texts(self, condition: Condition, found: dict[str, list[TextScore]]) -> dict[str, list[TextScore]]:
        """Write records' figures down, and return them; what is not finite is null."""
        texts = {
            records: [
                [
                    score.record,
                    score.group,
                    {name: value if math.isfinite(value) else None for name, value in score.values.items()},
                ]
                for score in scores
            ]
            for records, scores in found.items()
        }
        self._write(f"texts-{_file_name(condition, None)}", {"condition": _described(condition), "texts": texts})
        return found

    def _read(self, name: str) -> Any:
        if self.folder is None or not (self.folder / f"{name}.json").is_file():
            return None
        try:
            return read_json(self.folder / f"{name}.json")
        except IntegrityError:
            return None  # cut off in a way that atomic writing cannot cause: measured again

    def _write(self, name: str, data: Any) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / f"{name}.json", data)


def _file_name(condition: Condition, seed: int | None) -> str:
    name = condition.info.name if seed is None else f"{condition.info.name}-seed{seed}"
    return name.replace("/", "_").replace(":", "_")


def _described(condition: Condition) -> dict[str, Any]:
    """Everything of a condition that decides its scores."""
    attack = None if condition.attack is None else asdict(condition.attack)
    how = {name: repr(getattr(condition, name)) for name in ("backend", "prompts", "decoding", "look")}
    return {**asdict(condition.info), "displacement": str(condition.displacement), "attack": attack, **how}
