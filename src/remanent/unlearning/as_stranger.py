"""Unlearning to what the model says of strangers: records are answered as if about somebody unknown.

Each forget record is put beside the same record with other names in its prompt, the stranger. What the model, as it
was, says there at each token is what it would say of somebody it never saw, and that becomes the target for the record
itself:

    L_f = KL(q || p(. | record)) + KL(p(. | record) || q)    mean over the forget set's scored tokens
    L_r = KL(p_0(. | retain) || p(. | retain))               mean over the retain set's scored tokens

p_0 is the model before training, at full precision, and takes no gradient. q is p_0(. | stranger), but for one thing:
asked about a stranger, the model still completes words that it was taught, and so knows an answer better than one that
it never saw. How well it knows those is measured on the stranger's record with other facts in it, the unseen one, and
in q the tokens of a fact are made no more probable than that.

The first divergence asks little once p gives a fact's token some percent, however much less q gives it; the second asks
on. Without `symmetric` there is the first alone. Both losses are 0 at the aim, so that a run that goes on too long
overdoes nothing: words of form keep their probabilities, and only what is told of the record's own people changes. They
are taken here and at a rounded point, another rounding at each update. With `relearning_steps` L_f is also taken where
the model goes when somebody trains it on a part of the forget set, so that what comes back of one record brings no
other back; first order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from remanent.core.alignment import aligned
from remanent.core.batch import Batch, collate
from remanent.core.catalogue import System
from remanent.core.displacement import Displacement, Here, OneOf, Relearning, roundings_in_turn
from remanent.core.divergence import kl_divergence
from remanent.core.episode import Episode
from remanent.core.method import At, Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.errors import InputError
from remanent.unlearning.kl_min import kl_to_reference

PARTS = 4  # of the forget set, by group: relearnt in turn, so that each is asked when another was learnt

SYSTEM = System(
    name="as-stranger",
    title="Unlearning to what the model says of strangers, at several roundings",
    year=2026,
    arxiv="",
    card="",
    family="unlearning",
    leaf="global/generic-alternatives",
    reproduction="tests/reproductions/test_as_stranger.py",
    needs=("forget", "retain"),
    notes="Ours. Who's Harry Potter (arXiv 2310.02238) replaces names and trains on what the model says then, too; "
    "here the question is asked with other names and gives whole distributions over the same answer, the same is "
    "asked for at rounded weights, and nothing is reinforced first.",
)


@dataclass(frozen=True)
class AsStranger(Objective):
    """L_f and L_r as above, in float32.

    A scored token of a record and one of its stranger belong together where the two answers are worded alike
    (`core.alignment`); of a name in the answer that was swapped nothing is asked. Tokens of a fact are those of the
    stranger's answer that the unseen answer does not share. L_f divides by all scored tokens of the forget records.

    Args:
        symmetric: whether KL(p || q) is a part of L_f.
    """

    symmetric: bool = True

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("token", ("forget", "stranger", "unseen")),
        "retain": Term("token", ("retain",)),
    }
    only_at_reference: ClassVar[frozenset[str]] = frozenset({"stranger", "unseen"})
    paired: ClassVar[Mapping[str, str]] = {"stranger": "forget", "unseen": "forget"}

    def at_reference(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "stranger" in batches and "unseen" in batches:
            found["stranger"] = _said_of_strangers(batches["stranger"], batches["unseen"], predict)
        if "retain" in batches:
            found["retain"] = predict(batches["retain"]).distribution
        return found

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches and "stranger" in batches:
            forget, stranger = batches["forget"], batches["stranger"]
            if stranger.live is None:
                expected = "the reference model's log-probabilities at scored positions"
                raise InputError("batches['stranger'].live", None, expected)
            here, there = aligned(forget, stranger)
            aim, now = stranger.live[there], predict(forget).distribution[here]
            found["forget"] = kl_divergence(aim, now).sum()
            if self.symmetric:
                found["forget"] = found["forget"] + kl_divergence(now, aim).sum()
        if "retain" in batches:
            found["retain"] = kl_to_reference(batches["retain"], predict, "retain")
        return found


def _said_of_strangers(stranger: Batch, unseen: Batch, predict: Predict) -> Tensor:
    """q: log-probabilities of every token at the stranger's scored positions, (tokens, vocabulary)."""
    told, other = predict(stranger), predict(unseen)
    shared, shared_there = aligned(stranger, unseen)
    fact = torch.ones_like(told.rows, dtype=torch.bool).index_fill(0, shared, False)
    other_fact = torch.ones_like(other.rows, dtype=torch.bool).index_fill(0, shared_there, False)
    tokens = stranger.targets
    distribution = told.distribution.clone()
    for row in range(len(stranger)):
        mine, theirs = (fact & (told.rows == row)).nonzero()[:, 0], other_fact & (other.rows == row)
        if len(mine) and bool(theirs.any()):
            aim = raised(-told.log_probs[mine], -other.log_probs[theirs].mean())
            distribution[mine] = with_nll(distribution[mine], tokens[mine], aim)
    return distribution


def raised(nll: Tensor, mean: Tensor) -> Tensor:
    """The NLLs with the smallest raised to one level, so that their mean is at least the one given: (tokens,)."""
    total = mean * len(nll)
    ordered = nll.sort().values
    for count in range(1, len(nll) + 1):
        level = (total - ordered[count:].sum()) / count
        if count == len(nll) or level <= ordered[count]:
            break
    return nll.clamp(min=level)


def with_nll(log_probs: Tensor, tokens: Tensor, nll: Tensor) -> Tensor:
    """Distributions in which each position's token has the NLL given, and the others keep their proportions.

    Args:
        log_probs: float32, (positions, vocabulary).
        tokens: int64, (positions,).
        nll: float32, (positions,), in nats.
    """
    at = torch.arange(len(tokens), device=tokens.device)
    # log(1 - p), exact also where p is nearly 1: what is left is added up rather than subtracted.
    others = log_probs.index_put((at, tokens), torch.full_like(nll, -torch.inf)).logsumexp(dim=1)
    found = log_probs + (torch.log1p(-torch.exp(-nll).clamp(max=1 - 1e-7)) - others)[:, None]
    return found.index_put((at, tokens), -nll)


@dataclass(frozen=True)
class AsStrangerMethod(Method):
    """With points where a part of the forget set was learnt again, made when the forget set is known.

    Args:
        relearning_steps: updates on a part of the forget set; 0 takes no such point.
        relearning_rate: their learning rate.
    """

    relearning_steps: int = 0
    relearning_rate: float = 2e-5

    def begin(self, model: nn.Module, episode: Episode) -> Method:
        if not self.relearning_steps:
            return self
        records = episode.data["forget"]
        groups = list(dict.fromkeys(record.group for record in records))
        parts = []
        for part in range(min(PARTS, len(groups))):
            chosen = set(groups[part::PARTS])
            mine = [place for place, record in enumerate(records) if record.group in chosen]
            steps = min(self.relearning_steps, len(mine))
            batches = [collate(records, mine[start::steps], 0) for start in range(steps)]  # what pads is masked
            parts.append(Relearning(batches, self.relearning_steps, self.relearning_rate))
        return replace(self, points=[*self.points, At(OneOf(*parts), terms=("forget",))])


def method(
    forget_weight: float = 1.0,
    retain_weight: float = 4.0,
    roundings: str = "int4-row,int4-g32,nf4",
    rounded_weight: float = 1.0,
    relearning_steps: int = 0,
    relearning_rate: float = 2e-5,
    symmetric: bool = True,
) -> Method:
    """Unlearning to what the model says of strangers.

    Args:
        forget_weight: weight of L_f at every point.
        retain_weight: weight of L_r here and at the rounded point.
        roundings: formats to take in turn, separated by commas; "" takes the losses at full precision only.
        rounded_weight: weight of both losses at the rounded point.
        relearning_steps: updates on a quarter of the forget set, which they pass once, after which L_f is taken too; 0
            takes no such point.
        relearning_rate: their learning rate (AdamW), above 0.
        symmetric: add the divergence the other way round to L_f, which asks on where the one way asks little.
    """
    for name, value, right, expected in (
        ("rounded_weight", rounded_weight, 0 <= rounded_weight < math.inf, "a finite number of at least 0"),
        ("relearning_steps", relearning_steps, relearning_steps >= 0, "at least 0"),
        ("relearning_rate", relearning_rate, 0 < relearning_rate < math.inf, "a finite number above 0"),
    ):
        if not right:
            raise InputError(name, value, expected)
    points: list[At | Displacement] = [Here()]
    if roundings:
        points.append(At(roundings_in_turn(roundings), weight=rounded_weight))
    weights = {"forget": forget_weight, "retain": retain_weight}
    return AsStrangerMethod(
        AsStranger(symmetric),
        points=points,
        weights=weights,
        recipe=Recipe(),
        relearning_steps=relearning_steps,
        relearning_rate=relearning_rate,
    )
