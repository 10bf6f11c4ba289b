"""Does SmolLM2-135M learn a real task better where it unlearns its own answers to unrelated questions meanwhile?

    python -m tests.reproductions.graceful_smollm2 [--tasks sst2 ag_news] [--seeds 0 1 2]

Learning with forgetting: the sentiment of film reviews, or the section of a news report, is learnt from few records;
what may be unlearned are the model's own answers to open questions. Falsified where the answers of highest confidence
give no more than plain fine-tuning, or no more than drawn ones. Rate, interval and share are the method's defaults; how
many records and epochs, was chosen by what two cores can do: of 48 updates every tenth unlearns, four in all. The seed
draws the records, what the model answers, and the order. Goes on where it was cut off (rows in
results/graceful_smollm2.jsonl). The data are small copies in shared/data, or in the folder that REMANENT_DATA names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from scipy.stats import mannwhitneyu
from torch import Tensor, nn

from remanent.continual.learning_with_forgetting import LearningWithForgetting, method, own_answers
from remanent.core.batch import IGNORED, Encoded, collate
from remanent.core.episode import Episode
from remanent.core.files import write_atomic
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.modes import evaluating
from remanent.core.predict import Predict
from remanent.core.scores import score_records
from remanent.core.task import teach
from remanent.data.encode import encode_all, encode_prompts, pad_id
from remanent.data.record import Message, Record
from remanent.jobs.data import fast_precision
from remanent.models.load import load

from .smollm2_study import MODEL, SYSTEM
from .study_rows import RESULTS, Row, Rows, data_folder, markdown, mean_and_interval

WAYS = ("plain", "top", "random", "bottom")
LEARNT, ASKED, QUESTIONS, HELD_OUT, EPOCHS, BATCH = 128, 300, 64, 32, 3, 8


@dataclass(frozen=True)
class Lesson:
    """A real task: question, and the words that answer it, by label."""

    learn: str
    ask: str
    question: str
    words: tuple[str, ...]
    fields: tuple[str, ...]


TASKS: Mapping[str, Lesson] = {
    "sst2": Lesson(
        "sst2/train.jsonl",
        "sst2/dev.jsonl",
        "Is this sentence of a film review positive or negative?",
        ("negative", "positive"),
        ("text",),
    ),
    "ag_news": Lesson(
        "ag_news/train.jsonl",
        "ag_news/test.jsonl",
        "Is this news report about the world, sports, business or science?",
        ("world", "sports", "business", "science"),
        ("title", "text"),
    ),
}


@dataclass(frozen=True)
class Chosen(LearningWithForgetting):
    """With confidences that are known already, so that the first fine-tuning is made once for all ways."""

    known: Tensor = field(default_factory=lambda: torch.zeros(0), repr=False, compare=False)

    def confidences(self, model: nn.Module, task: Sequence[Encoded], forget: Sequence[Encoded]) -> Tensor:
        return self.known


def of_file(name: str) -> list[dict[str, Any]]:
    """Rows of a file of JSON lines."""
    return [json.loads(line) for line in (data_folder() / name).read_text(encoding="utf-8").splitlines()]


def asked_as(question: str, answer: str, key: str) -> Record:
    """A record of one question, after an empty system turn."""
    return Record(key, key, (Message("system", SYSTEM), Message("user", question)), answer)


def text_of(record: Record) -> str:
    """What a question is about."""
    return record.question.split("\n", 1)[1]


def drawn(count: int, of: Sequence[Any], seed: int) -> list[Any]:
    """Some of them, without return."""
    return [of[place] for place in torch.randperm(len(of), generator=torch.Generator().manual_seed(seed))[:count]]


class World:
    """The model, and its two tasks as tokens.

    Args:
        task: one of TASKS.
        seed: of what is drawn.
    """

    def __init__(self, task: str, seed: int) -> None:
        loaded, lesson = load(MODEL), TASKS[task]
        self.model, self.pad, self.seed = loaded.model, pad_id(loaded.tokenizer), seed
        self.start = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.autocast = Settings(0, precision=fast_precision()).autocast

        def read(file: str) -> list[Record]:
            return [
                asked_as(
                    f"{lesson.question}\n{'. '.join(row[name] for name in lesson.fields)}",
                    lesson.words[row["label"]],
                    f"{file}/{place}",
                )
                for place, row in enumerate(of_file(file))
            ]

        ask = read(lesson.ask)
        texts = [text_of(record) for record in ask]  # a phrase of one set may lie in a sentence of the other
        apart = [
            record
            for record in read(lesson.learn)
            if not any(text in text_of(record) or text_of(record) in text for text in texts)
        ]
        learn = encode_all(drawn(LEARNT + HELD_OUT, apart, seed), loaded.tokenizer)
        self.task, self.rest = learn[:LEARNT], learn[LEARNT:]
        self.asked = encode_all([ask[place * len(ask) // ASKED] for place in range(ASKED)], loaded.tokenizer)
        choices = encode_all([replace(ask[0], answer=word) for word in lesson.words], loaded.tokenizer)
        self.words = [next(label for label in choice.labels if label != IGNORED) for choice in choices]
        assert len(set(self.words)) == len(lesson.words), "two answers begin with the same token"
        rows = drawn(QUESTIONS + HELD_OUT, of_file("nq_open/dev.jsonl"), seed)
        questions = [asked_as(f"{row['question']}?", "", f"nq/{place}") for place, row in enumerate(rows)]
        self.questions = encode_prompts(questions, loaded.tokenizer)

    def accuracy(self) -> float:
        """Percent of the asked records whose word is the likeliest of the words."""
        hits = 0
        with evaluating(self.model), torch.no_grad():
            for begin in range(0, len(self.asked), BATCH):
                batch = collate(self.asked, range(begin, min(begin + BATCH, len(self.asked))), self.pad)
                scores = Predict(self.model, self.autocast)(batch)
                first = (scores.counts.cumsum(0) - scores.counts).long()
                of_words = scores.distribution[first][:, self.words]
                right = torch.tensor(self.words)[of_words.argmax(dim=1)] == batch.targets[first]
                hits += int(right.sum())
        return 100 * hits / len(self.asked)

    def nll(self, records: Sequence[Encoded]) -> float:
        """Mean NLL of a token, mean over records."""
        scores = score_records(
            self.model, records, pad_id=self.pad, batch_size=BATCH, autocast=self.autocast, shared=True
        )
        return float(scores.mean_nll.mean())

    def answers(self, prompts: Sequence[Encoded]) -> list[Encoded]:
        """The model's own, drawn."""
        return own_answers(
            self.model, prompts, pad_id=self.pad, max_new_tokens=24, seed=self.seed, autocast=self.autocast
        )


def row(task: str, seed: int) -> Row:
    """Way -> accuracy on the task, and how likely its own answers to other questions still are."""
    world = World(task, seed)
    mine, lost = world.answers(world.questions[:QUESTIONS]), world.answers(world.questions[QUESTIONS:])
    of_task = world.answers(world.rest)
    top = replace(with_settings(method(), epochs=EPOCHS, batch_size=BATCH), seed=seed)
    both = top.confidences(world.model, world.task, [*mine, *of_task])
    above = mannwhitneyu(both[: len(mine)].tolist(), both[len(mine) :].tolist()).statistic  # pairs, ties half
    found: Row = {
        "auc": above / (len(mine) * len(of_task)),
        "before": {"accuracy": world.accuracy(), "own": world.nll(lost)},
    }
    generator = torch.Generator().manual_seed(seed)
    known = {
        "top": both[: len(mine)],
        "random": torch.rand(len(mine), generator=generator),
        "bottom": -both[: len(mine)],
    }
    settings = Settings(world.pad, seed, precision=fast_precision(), checkpoint_every=0)
    for way in WAYS:
        world.model.load_state_dict(world.start)
        chosen = (
            with_settings(teach(), learning_rate=top.recipe.learning_rate, epochs=EPOCHS, batch_size=BATCH)
            if way == "plain"
            else Chosen(top.objective, points=top.points, weights=top.weights, recipe=top.recipe, known=known[way])
        )
        run_episode(world.model, chosen, Episode(way, "teach", {"task": world.task, "forget": mine}), settings)
        found[way] = {"accuracy": world.accuracy(), "own": world.nll(lost)}
    return found


def table(rows: Sequence[Row]) -> str:
    """A line for each way."""
    lines = []
    for way in ("before", *WAYS):
        figures = [mean_and_interval([one[way][name] for one in rows], form) for name, form in FORMS.items()]
        gain = [one[way]["accuracy"] - one["plain"]["accuracy"] for one in rows]
        lines.append([way, *figures, mean_and_interval(gain, "+.1f") if way in WAYS[1:] else ""])
    auc = mean_and_interval([one["auc"] for one in rows])
    made = markdown(["way", "task, %", "NLL of its own answers", "task, beyond plain"], lines)
    return f"{made}\n\nAUC of confidence, answers to open questions against answers to the task: {auc}."


FORMS = {"accuracy": ".1f", "own": ".2f"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(RESULTS / "graceful_smollm2.jsonl")
    for task in asked.tasks:
        for seed in asked.seeds:
            rows.get(f"{task}/{seed}", partial(row, task, seed))
    report(rows)


def report(rows: Rows) -> None:
    """Write the tables of the tasks that have two seeds or more."""
    recipe = method().recipe
    parts = []
    for task in TASKS:
        found = [one for name, one in rows.found.items() if name.startswith(f"{task}/")]
        if len(found) > 1:
            parts.append(f"## {task}, {len(found)} seeds\n\n{table(found)}\n")
    text = f"""# Learning with forgetting on SmolLM2-135M

Made by `python -m tests.reproductions.graceful_smollm2`: all weights are trained on {LEARNT} records of a real task for
{EPOCHS} epochs ({BATCH} records an update, the method's rate of {recipe.learning_rate:g}); every tenth update, in the
place of one of the task, unlearns the model's own answers to {QUESTIONS} open questions: the half of highest confidence
("top"), a drawn half, or the half of lowest ("bottom"). Asked are {ASKED} other records of the task: the likeliest of
its words, and how likely the model's own answers to {HELD_OUT} other questions still are, in nats per token. Mean over
seeds and its 95% interval by Student's t. Arithmetic: {fast_precision()}, but for the first fine-tuning and the
confidences, which are float32.

"""
    write_atomic(RESULTS / "graceful_smollm2.md", text + "\n".join(parts))
    print(text + "\n".join(parts))


if __name__ == "__main__":
    main()
