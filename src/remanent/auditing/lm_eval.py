"""Public benchmarks such as WMDP and MMLU, through EleutherAI's lm-evaluation-harness: not reimplemented, only asked.

The harness writes the prompts, loads the data and scores; its task's name, version and hash of the prompts decide the
figure, so that the same task of another version is another measure.

MMLU asks what is to be kept, WMDP what is to be forgotten: its figures stand on the forget set, where chance is ideal.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remanent.auditing.evidence import FORGET, RETAIN
from remanent.auditing.measure_names import BENCHMARK
from remanent.auditing.text_score import TextScore
from remanent.core.files import sha256_file
from remanent.data.record import Record
from remanent.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from remanent.auditing.condition import Condition
    from remanent.auditing.measure import Measurer

PREFIX = "lm-eval:"
METRICS = ("acc", "exact_match", "acc_norm")  # shares of questions answered rightly; a task's first of them counts


@dataclass(frozen=True)
class Benchmark:
    """Asks one task, or one group of tasks, of the harness.

    Args:
        task: its name ("wmdp_bio", "mmlu"), or the path of a task's own YAML file.
        records: FORGET where it asks what is to be forgotten, else RETAIN.
        digest: of a file and the harness's version; set by `given`, so that stored figures are of this task.
    """

    task: str
    records: str = RETAIN
    digest: str = field(default="")
    alone = True

    @classmethod
    def parse(cls, text: str) -> Benchmark:
        """From "TASK", "TASK:forget" or "TASK:retain". Where nothing is said, WMDP's tasks are to be forgotten."""
        for records in (FORGET, RETAIN):
            if text.endswith(f":{records}"):
                return cls(text.removesuffix(f":{records}"), records)
        return cls(text, FORGET if is_wmdp(text) else RETAIN)

    def given(self, named: Mapping[str, Sequence[Record]]) -> Benchmark:
        """The look with its digest; the task brings its own records, which the harness loads here for the first time.

        Raises:
            MissingExtraError: where the harness is not installed.
            InputError: where there is no such task, or none of its metrics says which questions were answered rightly.
        """
        if importlib.util.find_spec("lm_eval") is None:
            raise MissingExtraError("lm_eval", "lm-eval", f"the condition {PREFIX}{self.task}")
        if self.is_file and not Path(self.task).is_file():
            raise InputError("at", f"{PREFIX}{self.task}", "a task's name, or the path of its YAML file")
        from lm_eval.tasks import get_task_dict

        manager = self._manager()
        if not self.is_file and self.task not in manager.all_tasks:
            near = difflib.get_close_matches(self.task, manager.all_tasks, n=3)
            hint = f" (did you mean {' or '.join(near)}?)" if near else ""
            raise InputError("at", f"{PREFIX}{self.task}", f"a task of the installed lm-eval{hint}")
        for name, task in _tasks(get_task_dict([self.task], manager)):
            found = list(task.aggregation())
            if not set(METRICS) & set(found):
                expected = f"a task with one of the metrics {', '.join(METRICS)}; {name} has {', '.join(found)}"
                raise InputError("at", f"{PREFIX}{self.task}", expected)
        file = f"SHA-256 {sha256_file(Path(self.task))}, " if self.is_file else ""
        return replace(self, digest=f"{file}lm-eval {importlib.metadata.version('lm_eval')}")

    @property
    def is_file(self) -> bool:
        """Whether the task is a file of the user's."""
        return self.task.endswith((".yaml", ".yml"))

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """Not known before the task is loaded."""
        return 0

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """Whether each question of the task was answered rightly; the group of a question is itself.

        Args:
            most: is left alone: a task is asked whole.
        """
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        with measurer.at(condition) as model:
            asked = HFLM(pretrained=model, tokenizer=measurer.tokenizer, batch_size=measurer.batch_size)
            found = simple_evaluate(
                model=asked,
                tasks=[self.task],
                task_manager=self._manager(),
                bootstrap_iters=0,
                log_samples=True,
            )
        return {self.records: _scores(found["samples"])}

    def _manager(self) -> Any:
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=str(Path(self.task).parent)) if self.is_file else TaskManager()


def is_wmdp(name: str) -> bool:
    """Whether a task, or a condition that asks one, is WMDP's: its name, or its file's, begins so."""
    return Path(name.removeprefix(PREFIX).partition("+")[0]).name.startswith("wmdp")


def _tasks(found: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Every task, those of groups among them."""
    for name, item in found.items():
        if isinstance(item, Mapping):
            yield from _tasks(item)
        else:
            yield str(name), item


def _scores(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[TextScore]:
    scores = []
    for task, rows in sorted(samples.items()):
        for row in rows:
            if row.get("filter") != rows[0].get("filter"):
                continue  # the same answer, read in another way: GSM8K's strict reading comes first
            value = float(next((row[name] for name in METRICS if name in row), math.nan))
            if not math.isfinite(value):
                raise InputError("at", f"{PREFIX}{task}", f"one of the metrics {', '.join(METRICS)} of each question")
            name = f"{task}/{row['doc_id']}"
            scores.append(TextScore(name, name, {BENCHMARK: value}))
    return scores
