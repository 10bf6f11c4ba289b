"""LLMU: ascent on forgotten answers, descent on answers that do not belong, the reference's distributions on retain.

L = -w_f NLL(forget) + w_m NLL(forget questions with answers of retain records) + w_r KL(p_reference || p) on retain.
The pairs of question and answer are drawn anew with every batch: the model is taught that any answer will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from remanent.core.batch import IGNORED, Batch, Encoded, collate
from remanent.core.catalogue import System
from remanent.core.episode import Episode
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.unlearning.kl_min import kl_to_reference

SYSTEM = System(
    name="llmu",
    title="LLMU: ascent, random mismatch and the reference's distributions",
    year=2023,
    arxiv="2310.10683",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_objectives.py",
    needs=("forget", "retain"),
    notes="One mismatched answer for each forget record and update, of a retain record of the batch; the released code "
    "draws 5 of a list. The divergence is a mean over scored positions; there it is over all, and a cross-entropy.",
)


@dataclass(frozen=True)
class LLMU(Objective):
    """ "forget" and "mismatch": mean over records of the mean NLL of their tokens; "retain": token mean of the KL.

    The n-th forget record of a batch is asked, and the n-th retain record's answer is given. Both are drawn in an order
    of their own, so that the pairs are random.

    Args:
        longest: most tokens of a question with its answer: what is more is cut off the answer. None: no limit.

    Source: Yao et al., arXiv 2310.10683, equations 2 to 5; weights and means of the released code.
    """

    longest: int | None = None

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("record", ("forget",)),
        "mismatch": Term("record", ("forget", "retain")),
        "retain": Term("token", ("retain",)),
    }

    def at_reference(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        return {"retain": predict(batches["retain"]).distribution} if "retain" in batches else {}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches:
            found["forget"] = -_mean_nll(batches["forget"], predict)
        if "forget" in batches and "retain" in batches:
            pairs = mismatched(batches["forget"], batches["retain"], self.longest)
            found["mismatch"] = _mean_nll(pairs, predict)
        if "retain" in batches:
            found["retain"] = kl_to_reference(batches["retain"], predict, "retain")
        return found

    def counted(self, term: str, batches: Mapping[str, Batch]) -> int:
        if term == "mismatch":
            return min(len(batches["forget"]), len(batches["retain"]))
        return super().counted(term, batches)


@dataclass(frozen=True)
class LLMUMethod(Method):
    """LLMU's composition, none of whose pairs is longer than the longest record, which the model and its user allow."""

    def begin(self, model: nn.Module, episode: Episode) -> Method:
        """The same method with that limit."""
        assert isinstance(self.objective, LLMU)
        lengths = [len(record.input_ids) for role in self.roles for record in episode.data.get(role, ())]
        return replace(self, objective=replace(self.objective, longest=max(lengths, default=None)))


def _mean_nll(batch: Batch, predict: Predict) -> Tensor:
    """Sum over records of the mean NLL of their scored tokens."""
    scores = predict(batch)
    return (scores.nll / scores.counts.clamp(min=1)).sum()


def mismatched(asked: Batch, answered: Batch, longest: int | None = None) -> Batch:
    """The prompts of one batch with the answers of another, record by record, as many as both have.

    A prompt is what stands before the first label; text without one is its own answer. What is longer than `longest`
    tokens loses the tail of its answer, as a record does when it is encoded.
    """
    device = asked.input_ids.device
    records = [
        Encoded((prompt + answer)[:longest], ((IGNORED,) * len(prompt) + labels)[:longest])
        for (prompt, _, _), (_, answer, labels) in zip(_parts(asked), _parts(answered), strict=False)
    ]
    return collate(records, range(len(records)), 0).to(device)  # the mask hides what fills rows


def _parts(batch: Batch) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Of each record: prompt, answer, and the labels of the answer."""
    found = []
    lengths = batch.attention_mask.sum(dim=1).tolist()
    for ids, labels, length in zip(batch.input_ids.tolist(), batch.labels.tolist(), lengths, strict=True):
        first = next((place for place in range(length) if labels[place] != IGNORED), length)
        found.append((tuple(ids[:first]), tuple(ids[first:length]), tuple(labels[first:length])))
    return found


def method(forget_weight: float = 0.5, mismatch_weight: float = 1.0, retain_weight: float = 1.0) -> Method:
    """LLMU with the defaults of its released code.

    Args:
        forget_weight: of the ascent.
        mismatch_weight: of the answers that do not belong.
        retain_weight: of the divergence.
    """
    recipe = Recipe(learning_rate=2e-6, steps=1000, batch_size=2, warmup=0.0, max_grad_norm=None)
    weights = {"forget": forget_weight, "mismatch": mismatch_weight, "retain": retain_weight}
    return LLMUMethod(LLMU(), weights=weights, recipe=recipe)
