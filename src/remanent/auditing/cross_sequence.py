"""The cross-sequence probe: does what a model was taught look taught, whatever it says?

A linear probe learns, depth by depth, to tell the hidden states of some forgotten records from those of unseen ones,
and is asked about others that it never saw. Beside it stands the same probe between two sets of unseen records: what
any two sets differ by. The gap between both is what is special about having been taught.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from remanent.core.activations import decoder_layers, states_of
from remanent.core.probe import Fit, fit_network, fit_probe
from remanent.core.separation import Separation, paired, separation
from remanent.data.encode import encode_all
from remanent.data.record import Record
from remanent.errors import InputError

CONTEXTS = (
    "Here is a passage: ",
    "Consider this: ",
    "From the notes of last week: ",
    "The page goes on as follows. ",
    "Read this first. ",
    "As it stands in the file: ",
    "Somebody wrote: ",
    "Next in the list: ",
)


# The paper's battery of attackers. It lists six, of which two differ by the seed of a convex fit: one and the same.
BATTERY: Mapping[str, Fit] = {
    "linear": partial(fit_probe, strength=1.0),
    "linear, C 0.1": partial(fit_probe, strength=0.1),
    "linear, C 10": partial(fit_probe, strength=10.0),
    "network, 16": partial(fit_network, hidden=(16,), seed=42),
    "network, 32 and 16": partial(fit_network, hidden=(32, 16), seed=7),
}


@dataclass(frozen=True)
class Gap:
    """What a probe finds at one depth.

    Args:
        depth: 0 is before the first layer, d after the d-th.
        taught: forget against unseen records.
        unseen: unseen against other unseen records.
        gap: accuracy of the first minus that of the second, as published.
        distance_gap: the same of |2 accuracy - 1|, which no turned answer can hide.
        low, high: 95 % interval of `distance_gap`, by drawing pairs anew.
    """

    depth: int
    taught: Separation
    unseen: Separation
    gap: float
    distance_gap: float
    low: float
    high: float


def cross_sequence(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    forget: Sequence[Record],
    control: Sequence[Record],
    *,
    contexts: Sequence[str] = CONTEXTS,
    depths: Sequence[int] | None = None,
    strength: float = 1.0,
    permutations: int = 99,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Gap]:
    """The gap at each depth, by a linear probe.

    Whole groups are held out: the n-th forget group together with the n-th of the unseen ones.

    Args:
        model: any model of the tokenizer: the audited one; `untrained(model)` for the null of a random network.
        tokenizer: its tokenizer.
        forget: records that were to be forgotten, of at least 3 groups.
        control: unseen records of the same kind, of at least 6 groups, half of which stand against forget and half
            against those.
        contexts: each is put before every record, so that a probe cannot lean on one place.
        depths: None is all, the embeddings first.
        strength: C of the logistic regression.
        permutations: relabellings of pairs, for the p-values.
        seed: of those and of the intervals.
        on_progress: called with depths done and all.

    Raises InputError where there are too few groups, or a depth is not the model's.

    Source: arXiv 2605.01699; the distance from one half in the place of its accuracy, whole groups held out, and the
    null by relabelling pairs are ours.
    """
    compared = Compared.of(model, tokenizer, forget, control, contexts, depths)
    found = []
    for done, depth in enumerate(compared.states, start=1):
        found.append(compared.gap(depth, partial(fit_probe, strength=strength), permutations, seed))
        on_progress(done, len(compared.states))
    return found


def probe_battery(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    forget: Sequence[Record],
    control: Sequence[Record],
    *,
    contexts: Sequence[str] = CONTEXTS,
    depths: Sequence[int] | None = None,
    probes: Mapping[str, Fit] = BATTERY,
    permutations: int = 0,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[Gap]]:
    """The gap at each depth by each of several attackers: name -> gaps. What was erased against one may be seen by
    another, so that the largest counts; of many attackers the largest of pure noise is not 0 either.

    Args:
        probes: name -> how it is fitted.
        on_progress: called with fits done and all.

    The other arguments, what is raised and the source are those of `cross_sequence`.
    """
    compared = Compared.of(model, tokenizer, forget, control, contexts, depths)
    found: dict[str, list[Gap]] = {name: [] for name in probes}
    total = len(probes) * len(compared.states)
    for name, fit in probes.items():
        for depth in compared.states:
            found[name].append(compared.gap(depth, fit, permutations, seed))
            on_progress(sum(map(len, found.values())), total)
    return found


@dataclass(frozen=True)
class Compared:
    """States of forget records and of two halves of the unseen ones.

    Args:
        states: depth -> float32 (rows, width), one of each of the three sets.
        groups: of each set's rows, in order.
    """

    states: Mapping[int, list[Tensor]]
    groups: list[list[str]]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        forget: Sequence[Record],
        control: Sequence[Record],
        contexts: Sequence[str] = CONTEXTS,
        depths: Sequence[int] | None = None,
        **how: Any,
    ) -> Compared:
        """The states of as many groups of each set as the smallest has; arguments as for `cross_sequence`.

        `how`: `max_length` in tokens, and what `states_of` takes by name.
        """
        if not contexts:
            raise InputError("contexts", "none", "at least one; '' puts nothing before a record")
        names = list(dict.fromkeys(record.group for record in control))
        if len(names) < 6:
            raise InputError("control", f"{len(names)} groups", "unseen records of at least 6 groups")
        first = set(names[: len(names) // 2])
        sets = [
            list(forget),
            [record for record in control if record.group in first],
            [record for record in control if record.group not in first],
        ]
        count = min(len(dict.fromkeys(record.group for record in part)) for part in sets)
        sets = [_of_groups(part, count) for part in sets]
        chosen = tuple(range(len(decoder_layers(model)) + 1)) if depths is None else tuple(depths)
        each = [_states(model, tokenizer, part, contexts, chosen, **how) for part in sets]
        states = {depth: [part[depth] for part in each] for depth in chosen}
        return cls(states, [[record.group for record in part for _ in contexts] for part in sets])

    def gap(self, depth: int, fit: Fit, permutations: int, seed: int) -> Gap:
        """What a probe finds at one of the depths; pair n is the n-th group of either side."""

        def side(one: int, two: int) -> Separation:
            states, groups = self.states[depth], self.groups
            rows = torch.cat([states[one], states[two]])
            positive = torch.arange(len(rows)) < len(states[one])
            pairs = paired(groups[one], groups[two])
            return separation(rows, positive, pairs, fit=fit, permutations=permutations, seed=seed)

        return _gap(depth, side(0, 1), side(1, 2), seed)


def untrained(model: nn.Module, seed: int = 0) -> nn.Module:
    """A model of the same configuration with fresh random weights, in eval mode: the null of a random network."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        made: nn.Module = type(model)(model.config)
    return made.to(next(model.parameters()).device).eval()


def in_context(record: Record, context: str) -> Record:
    """The record with a context before its first turn, or before its text."""
    if not record.prompt:
        return replace(record, answer=context + record.answer)
    first = replace(record.prompt[0], content=context + record.prompt[0].content)
    return replace(record, prompt=(first, *record.prompt[1:]))


def _of_groups(records: Sequence[Record], count: int) -> list[Record]:
    chosen = set(list(dict.fromkeys(record.group for record in records))[:count])
    return [record for record in records if record.group in chosen]


def _states(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    contexts: Sequence[str],
    depths: Sequence[int],
    max_length: int | None = None,
    **how: Any,
) -> dict[int, Tensor]:
    asked = [in_context(record, context) for record in records for context in contexts]
    return states_of(model, encode_all(asked, tokenizer, max_length), depths, **how)


def _gap(depth: int, taught: Separation, unseen: Separation, seed: int) -> Gap:
    """Of a few pairs a distance is never quite 0, whatever there is to find: so both sides are drawn anew."""
    pairs = [torch.tensor(list(side.groups.values()), dtype=torch.float64) for side in (taught, unseen)]
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(len(values), (2000, len(values)), generator=generator) for values in pairs]
    far = [(2 * values[row].mean(dim=1) - 1).abs() for values, row in zip(pairs, rows, strict=True)]
    low, high = torch.quantile(far[0] - far[1], torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Gap(
        depth,
        taught,
        unseen,
        taught.accuracy - unseen.accuracy,
        taught.distance - unseen.distance,
        low,
        high,
    )
