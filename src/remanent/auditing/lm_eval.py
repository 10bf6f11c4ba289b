"""Public benchmarks such as WMDP and MMLU, through EleutherAI's lm-evaluation-harness: not reimplemented, only asked.

The harness writes the prompts, loads the data and scores; its task's name, version and hash of the prompts decide the
figure, so that the same task of another version is another measure.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remanent.auditing.evidence import RETAIN
from remanent.auditing.measure_names import BENCHMARK
from remanent.auditing.text_score import TextScore
from remanent.data.record import Record
from remanent.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from remanent.auditing.condition import Condition
    from remanent.auditing.measure import Measurer

PREFIX = "lm-eval:"


@dataclass(frozen=True)
class Benchmark:
    """Asks one task, or one group of tasks, of the harness.

    Args:
        task: its name ("wmdp_bio", "mmlu"), or the path of a task's own YAML file.
    """

    task: str
    alone = True

    def given(self, named: Mapping[str, Sequence[Record]]) -> Benchmark:
        """The look as it is; the task brings its own records.

        Raises:
            MissingExtraError: where the harness is not installed.
            InputError: where a task's file is not there.
        """
        if importlib.util.find_spec("lm_eval") is None:
            raise MissingExtraError("lm_eval", "lm-eval", f"the condition {PREFIX}{self.task}")
        if self.is_file and not Path(self.task).is_file():
            raise InputError("at", f"{PREFIX}{self.task}", "a task's name, or the path of its YAML file")
        return self

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
        from lm_eval.tasks import TaskManager

        with measurer.at(condition) as model:
            asked = HFLM(pretrained=model, tokenizer=measurer.tokenizer, batch_size=measurer.batch_size)
            found = simple_evaluate(
                model=asked,
                tasks=[self.task],
                task_manager=TaskManager(include_path=str(Path(self.task).parent)) if self.is_file else TaskManager(),
                bootstrap_iters=0,
                log_samples=True,
            )
        return {RETAIN: _scores(found["samples"])}


def _scores(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[TextScore]:
    scores = []
    for task, rows in sorted(samples.items()):
        for row in rows:
            value = float(row.get("acc", math.nan))
            if not math.isfinite(value):
                raise InputError("at", f"{PREFIX}{task}", "a task whose questions have an accuracy (metric acc)")
            name = f"{task}/{row['doc_id']}"
            scores.append(TextScore(name, name, {BENCHMARK: value}))
    return scores
