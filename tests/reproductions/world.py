"""A small world of fictitious authors, and tiny models really trained in it: what the reproductions share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from remanent.core.batch import Encoded
from remanent.core.displacement import Displacement, Here
from remanent.core.episode import Episode
from remanent.core.evaluation import ForgetAtControl
from remanent.core.loop import OnStep, Outcome, Precision, Settings, run_episode, with_settings
from remanent.core.method import Method
from remanent.core.scores import RecordScores, score_records
from remanent.core.task import teach
from remanent.data.authors import author_sets
from remanent.data.encode import encode_all, pad_id
from remanent.data.general_text import general_text
from remanent.data.record import Record
from remanent.data.splits import CONTROL_SHARES, RETAIN_SHARES, split_by_group
from remanent.models.load import load
from remanent.models.save import save
from remanent.models.tiny import tiny

State = Mapping[str, Tensor]  # a model's weights by name

_OTHERS = 1_000_003  # a seed of the authors that share nothing with any other set
EVALUATED = 64  # records of each set that the stopping rule asks
MEASURED = 160  # records of each set that are measured outside an audit
BASE_EPOCHS = 5
EPOCHS = 12


class World:
    """Authors to forget, to keep and never taught, and one small Llama that is put into any state and trained.

    Args:
        forget, retain, control: how many authors.
        background: how many further authors teach the base its language, asked in both forms.
        hidden: width of the Llama of two layers.
        seed: of the authors and of the first weights.
    """

    precision: ClassVar[Precision] = "fp32"
    batch_size: ClassVar[int] = 16  # records of a role in an update

    def __init__(
        self,
        forget: int = 40,
        retain: int = 48,
        control: int = 120,
        background: int = 150,
        hidden: int = 64,
        seed: int = 0,
    ) -> None:
        dealt = author_sets(seed, forget, retain, control, 4)
        others = list(author_sets(_OTHERS + seed, 1, background, 1, 4).retain)
        self.records: dict[str, list[Record]] = {
            "forget": list(dealt.forget),
            "retain": list(dealt.retain),
            "control": list(dealt.control),
            "background": others + in_other_words(others),
            "taught": [*dealt.forget, *dealt.retain],
            "elsewhere": list(author_sets(2 * _OTHERS + seed, 1, forget + retain, 1, 4).retain),
            "text": general_text()[:4],
        }
        for role, shares in (("retain", RETAIN_SHARES), ("control", CONTROL_SHARES)):
            for side, records in split_by_group(self.records[role], shares, seed).items():
                self.records[f"{role}-{side}"] = records
        everything = [*self.records["taught"], *self.records["control"], *self.records["background"]]
        made = tiny(everything, hidden=hidden, vocabulary=1024, seed=seed)
        self.model, self.tokenizer = made.model, made.tokenizer
        self.pad_id = pad_id(self.tokenizer)
        self.encoded = {name: encode_all(records, self.tokenizer) for name, records in self.records.items()}
        self.blank = self.state()

    @property
    def how(self) -> dict[str, Any]:
        """How the model is asked: for `score_records`."""
        return {"pad_id": self.pad_id, "batch_size": 64, "autocast": Settings(0, precision=self.precision).autocast}

    def state(self) -> State:
        """A copy of the weights as they are."""
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def put(self, state: State) -> None:
        """Put the model into a state."""
        self.model.load_state_dict(state)

    def moved(self, state: State, displacement: Displacement) -> State:
        """A state after a displacement."""
        self.put(state)
        displacement.apply(self.model)
        return self.state()

    def base(self) -> State:
        """A model that has learnt the language of the records, from authors that are in no other set."""
        return self.teach(self.blank, "background", epochs=BASE_EPOCHS)

    def teach(
        self, start: State, records: str, *, epochs: float = EPOCHS, at: Displacement | None = None, seed: int = 0
    ) -> State:
        """Fine-tune a state on records, at full precision or at another point."""
        method = replace(teach(), points=[at or Here()])
        method = with_settings(method, epochs=epochs, learning_rate=3e-3, batch_size=self.batch_size)
        return self.run(start, method, {"task": records}, seed=seed)[0]

    def unlearn(
        self,
        start: State,
        method: Method,
        *,
        learning_rate: float,
        steps: int,
        stop_at: Sequence[Displacement] = (),
        evaluate_every: int = 4,
        seed: int = 0,
        on_step: OnStep | None = None,
    ) -> tuple[State, Outcome]:
        """Make a state forget; stops when forget is no better known than control (select split) at all of `stop_at`."""
        method = with_settings(
            method,
            steps=steps,
            learning_rate=learning_rate,
            batch_size=self.batch_size,
            schedule="constant",
            warmup=0.0,
        )
        roles = {"forget": "forget", "retain": "retain-train"}
        return self.run(start, method, roles, stop_at=stop_at, every=evaluate_every, seed=seed, on_step=on_step)

    def run(
        self,
        start: State,
        method: Method,
        roles: Mapping[str, str],
        *,
        stop_at: Sequence[Displacement] = (),
        every: int = 0,
        seed: int = 0,
        on_step: OnStep | None = None,
    ) -> tuple[State, Outcome]:
        """An episode of the library's own loop, from a state to a state."""
        self.put(start)
        data = {role: self.encoded[name] for role, name in roles.items() if role in method.roles}
        rule = None
        if stop_at:
            sets = {"forget": "forget", "retain": "retain-select", "control": "control-select"}
            known = {role: spread(self.encoded[name], EVALUATED) for role, name in sets.items()}
            rule = ForgetAtControl(known, stop_at, **self.how)
        settings = Settings(self.pad_id, seed=seed, evaluate_every=every, precision=self.precision)
        kind = "erase" if "forget" in data else "teach"
        outcome = run_episode(self.model, method, Episode(kind, kind, data), settings, rule=rule, on_step=on_step)
        return self.state(), outcome

    def scores(self, state: State, records: str, at: Displacement | None = None) -> RecordScores:
        """Scores of records on a state, at full precision or at another point."""
        self.put(state)
        asked = spread(self.encoded[records], MEASURED)
        with (at or Here()).at(self.model):
            return score_records(self.model, asked, **self.how)

    def nll(self, state: State, records: str, at: Displacement | None = None) -> float:
        """Mean answer NLL of records on a state, in nats per token."""
        return float(self.scores(state, records, at).mean_nll.mean())

    def accuracy(self, state: State, records: str, at: Displacement | None = None) -> float:
        """Share of a set's answer tokens that are the most likely ones, teacher forced: FA and RA of the papers."""
        return token_accuracy(self.scores(state, records, at))

    def saved(self, state: State, folder: Path) -> Callable[[], object]:
        """Save a state as a model folder, and give what loads it."""
        self.put(state)
        save(self.model, self.tokenizer, folder)
        return lambda: load(folder)


def token_accuracy(found: RecordScores) -> float:
    """Share of the tokens that are the most likely ones, over all tokens of a set."""
    return float(found.hits.sum() / found.tokens.sum())


def spread(records: Sequence[Encoded], most: int) -> list[Encoded]:
    """At most that many records, at even distances."""
    return [records[index * len(records) // most] for index in range(most)] if len(records) > most else list(records)


def in_other_words(records: Sequence[Record]) -> list[Record]:
    """The paraphrases of records, under keys of their own."""
    return [
        replace(other, key=f"{other.key}/other") for record in records if (other := record.paraphrased()) is not None
    ]
