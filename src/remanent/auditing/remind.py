"""REMIND: the loss in the neighbourhood of a text shows what the loss at the text itself hides.

Cohen, Nemcovesky and Mendelson (arXiv 2511.04228). A text is passed through the model with some tokens replaced by
tokens whose input embeddings are near: texts that a model was made to forget lie on a plateau, kept and unrelated ones
in a basin. Only losses are asked for; the embeddings may be another model's with the same tokenizer.

The abstract is the paper's; strengths, features and the classifier are ours, since neither the paper's method section
nor its code could be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from remanent.auditing.evidence import CONTROL, FORGET
from remanent.auditing.measure_names import LOSS, NEIGHBOURHOOD, STEEPNESS
from remanent.auditing.text_score import TextScore
from remanent.core.batch import IGNORED, Encoded
from remanent.core.catalogue import System
from remanent.core.sampling import seed_of
from remanent.core.scores import score_records
from remanent.data.record import Record
from remanent.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from remanent.auditing.condition import Condition
    from remanent.auditing.measure import Measurer

SYSTEM = System(
    name="remind",
    title="REMIND: the loss around a text",
    year=2025,
    arxiv="2511.04228",
    card="remind",
    family="audit",
    reproduction="tests/reproductions/test_remind.py",
    needs=("forget", "control"),
    notes="Strengths, figures and classifier are ours: of the paper, its abstract alone could be read.",
)

SHARES = (0.05, 0.1, 0.2, 0.4)  # of the tokens that may be replaced
RANKS = (1, 2, 5)  # which neighbour replaces a token, 1 the nearest
STRENGTHS = tuple(product(SHARES, RANKS))
NEIGHBOURS = 4 * len(STRENGTHS)
_RECORDS = 128  # whose neighbours are held at once
_ROWS = 512  # embeddings that are compared with all others at once
_LOOKED_AT = 50  # near tokens, of which those that are the same word are passed over


@dataclass(frozen=True)
class Remind:
    """Asks each record's neighbours, of every strength in turn.

    Args:
        neighbours: how many of each record; a multiple of 12 takes as many of each of the 12 strengths.
        random: whether tokens are replaced by any others, near or not: the control, which is mere noise.
        embeddings: (vocabulary, width), by which tokens are near; None takes those of the model that is asked.
        digest: of `embeddings`, since what was found by others is not taken up.
    """

    neighbours: int = NEIGHBOURS
    random: bool = False
    embeddings: Tensor | None = field(default=None, repr=False, compare=False)
    digest: str = ""
    alone = True

    def near_by(self, table: Tensor) -> Remind:
        """The probe with a model's embeddings, float32 on the CPU, so that models are asked the same texts."""
        return replace(self, embeddings=table, digest=sha256(table.numpy().data).hexdigest())

    def given(self, named: Mapping[str, Sequence[Record]]) -> Remind:
        """The probe; it needs a forget set and a control to compare with."""
        if not named.get(FORGET) or not named.get(CONTROL):
            raise InputError("at", "remind", "a forget set and a control, whose neighbourhoods are compared")
        return self

    def passes(self, named: Mapping[str, Sequence[Record]]) -> int:
        """Records passed through the model."""
        return sum(len(named.get(name, ())) for name in (FORGET, CONTROL)) * (1 + self.neighbours)

    def __call__(self, measurer: Measurer, condition: Condition, most: int) -> dict[str, list[TextScore]]:
        """What the neighbourhood of each record of forget and control says; records without a token to replace lack."""
        sets = {
            name: measurer.sets[name].asked(condition.prompts, measurer.tokenizer)
            for name in (FORGET, CONTROL)
            if name in measurer.sets
        }
        everything = [item for part in sets.values() for item in part.encoded]
        # As loaded, so that neighbours are the same at every condition.
        own = embeddings(measurer.model)
        vectors = own if self.embeddings is None else self.embeddings.to(own.device)
        table = TokenNeighbours.of(vectors, measurer.tokenizer, everything, self.random)
        with measurer.at(condition) as model:
            found = landscapes(model, everything, table, self.neighbours, **measurer.how)
        figures = iter(found)
        return {
            name: [
                TextScore(*hashes, of_record)
                for hashes, of_record in zip(part.hashes, figures, strict=False)
                if of_record is not None
            ]
            for name, part in sets.items()
        }


def embeddings(model: nn.Module) -> Tensor:
    """A model's input embeddings, (vocabulary, width)."""
    table: Tensor = model.get_input_embeddings().weight  # type: ignore[operator]
    return table


def landscapes(
    model: nn.Module,
    encoded: Sequence[Encoded],
    table: TokenNeighbours,
    count: int = NEIGHBOURS,
    **how: Any,
) -> list[dict[str, float] | None]:
    """The figures of each text's neighbourhood (see `landscape`); None where no token of it can be replaced.

    Args:
        model: the model.
        encoded: the texts, all that are compared: what all questions begin and end with is left alone.
        table: what tokens are replaced by.
        count: neighbours of each text.
        how: as for `score_records`.
    """
    places = changeable(encoded, table)
    # The longest first, so that little is padded, and some at a time, since there are `count` times as many texts.
    order = sorted(
        (row for row in range(len(encoded)) if len(places[row])), key=lambda row: -len(encoded[row].input_ids)
    )
    found: list[dict[str, float] | None] = [None] * len(encoded)
    for start in range(0, len(order), _RECORDS):
        rows = order[start : start + _RECORDS]
        near = [neighbours(encoded[row], places[row], table, count) for row in rows]
        asked = [text for row, (texts, _) in zip(rows, near, strict=True) for text in (encoded[row], *texts)]
        nll = score_records(model, asked, **how).mean_nll.numpy().reshape(len(rows), -1)
        for row, losses, (_, shares) in zip(rows, nll, near, strict=True):
            found[row] = landscape(float(losses[0]), losses[1:], shares)
    return found


@dataclass(frozen=True, eq=False)
class TokenNeighbours:
    """What a token is replaced by.

    Args:
        rows: token id -> its row in `near`; tokens that are never replaced have none.
        near: int64, (tokens, ranks): the ids of RANKS' nearest tokens, the nearest first.
        anything: int64: ids to draw from instead, where nearness is not to count; None where it is.
    """

    rows: Mapping[int, int]
    near: NDArray[np.int64]
    anything: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls,
        embeddings: Tensor,
        tokenizer: PreTrainedTokenizerBase,
        encoded: Sequence[Encoded],
        random: bool = False,
    ) -> TokenNeighbours:
        """The neighbours, by the cosine of input embeddings in float32, of all tokens that occur.

        Neither replaced nor put in are special tokens, pieces of a character, blanks, and tokens without an embedding;
        a token that differs in case or in blanks alone is the same word and no neighbour.

        Args:
            embeddings: (vocabulary, width).
            tokenizer: whose ids these are.
            encoded: the texts.
            random: whether any token may take a token's place.
        """
        count = min(len(tokenizer), len(embeddings))
        words = [text.strip().casefold() for text in tokenizer.batch_decode([[token] for token in range(count)])]
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        vectors = normalize(embeddings[:count].detach().float(), dim=1)
        usable = vectors.any(dim=1).cpu().numpy()
        usable &= np.array([bool(w) and "\ufffd" not in w and i not in special for i, w in enumerate(words)])
        occurring = {token for item in encoded for token in item.input_ids if token < count and usable[token]}
        allowed = np.flatnonzero(usable)
        rows: dict[int, int] = {}
        near: list[list[int]] = []
        for some in torch.split(torch.tensor(sorted(occurring), dtype=torch.int64), _ROWS):
            likeness = vectors[some.to(vectors.device)] @ vectors[torch.from_numpy(allowed).to(vectors.device)].T
            best = likeness.topk(min(_LOOKED_AT, len(allowed)), dim=1).indices.cpu().numpy()
            for token, candidates in zip(some.tolist(), allowed[best], strict=True):
                others = [int(other) for other in candidates if words[other] != words[token]][: max(RANKS)]
                if len(others) == max(RANKS):
                    rows[token] = len(near)
                    near.append([others[rank - 1] for rank in RANKS])
        return cls(rows, np.array(near, dtype=np.int64).reshape(-1, len(RANKS)), allowed if random else None)


def changeable(encoded: Sequence[Encoded], table: TokenNeighbours) -> list[NDArray[np.int64]]:
    """Which tokens of each text may be replaced: of a question its own words, of plain text all but the first.

    What all questions have in common at their beginning and at their end is the form in which they are asked.
    """
    prompts = [item.input_ids[: _answer_at(item)] for item in encoded if _answer_at(item) > 1]
    first = _shared(prompts)
    last = _shared([prompt[::-1] for prompt in prompts])
    found = []
    for item in encoded:
        end = _answer_at(item)
        inside = range(first, end - last) if end > 1 else range(1, len(item.input_ids))
        found.append(np.array([place for place in inside if item.input_ids[place] in table.rows], dtype=np.int64))
    return found


def neighbours(
    item: Encoded, places: NDArray[np.int64], table: TokenNeighbours, count: int
) -> tuple[list[Encoded], NDArray[np.float64]]:
    """Texts near a text, their labels its own, and the share of `places` in which each differs, (count,).

    Each place is replaced by itself with the chance that the strength says; where none is, the one that came nearest
    to it. The draws depend on the record's key alone.
    """
    generator = np.random.default_rng(seed_of("remind", item.key))
    strengths = [STRENGTHS[number % len(STRENGTHS)] for number in range(count)]
    drawn = generator.random((count, len(places)))
    changed = drawn < np.array([share for share, _ in strengths])[:, None]
    changed[np.arange(count), drawn.argmin(axis=1)] = True
    ids = np.array(item.input_ids)
    own = ids[places]
    if table.anything is None:
        of_rank = table.near[[table.rows[int(token)] for token in own]]  # (places, ranks)
        others = np.stack([of_rank[:, RANKS.index(rank)] for _, rank in strengths])
    else:
        others = generator.choice(table.anything, changed.shape)
    made = np.tile(ids, (count, 1))
    made[:, places] = np.where(changed, others, own)
    return [replace(item, input_ids=tuple(row)) for row in made.tolist()], changed.mean(axis=1)


def landscape(loss: float, losses: NDArray[np.float64], shares: NDArray[np.float64]) -> dict[str, float]:
    """The figures of a neighbourhood, by name; d is how much a neighbour's loss lies above the text's own.

    "loss" is minus the loss at the text, as in every attack, and "steepness" the slope of the least-squares line
    d = slope * share through 0. The others stand under "neighbourhood-...".

    Args:
        loss: mean NLL at the text, in nats.
        losses: (neighbours,): the same at each neighbour, of STRENGTHS in turn.
        shares: (neighbours,): the share of tokens that differ, above 0.
    """
    rise = losses - loss
    slope = float(rise @ shares / (shares @ shares))
    number = np.arange(len(losses)) % len(STRENGTHS)
    by_share = [rise[number // len(RANKS) == place] for place in range(len(SHARES))]
    by_rank = [rise[number % len(RANKS) == place] for place in range(len(RANKS))]
    levels = np.array([part.mean() for part in by_share if part.size])
    low, middle, high = np.quantile(losses, [0.25, 0.5, 0.75])
    mean, spread = float(losses.mean()), float(losses.std())
    figures: dict[str, float] = {
        "mean": mean,
        "deviation": spread,
        "least": float(losses.min()),
        "largest": float(losses.max()),
        "median": float(middle),
        "quartiles": float(high - low),
        "rise": float(rise.mean()),
        "rise-deviation": float(rise.std()),
        "change": float(np.abs(rise).mean()),
        "lower": float((rise < 0).mean()),
        "volatility": float((rise - slope * shares).std()),
        "curvature": float(np.diff(levels, 2).mean()) if len(levels) > 2 else 0.0,
        "variation": spread / mean if mean > 0 else 0.0,
        **{f"rise-{rank}": float(part.mean()) for rank, part in zip(RANKS, by_rank, strict=True) if part.size},
    }
    return {LOSS: -loss, STEEPNESS: slope, **{NEIGHBOURHOOD + name: value for name, value in figures.items()}}


Choose = Callable[[str], bool]


def figures_of(scores: Sequence[TextScore], chosen: Choose | None = None) -> NDArray[np.float64]:
    """The chosen figures of a set's neighbourhoods, or all of them, for a classifier: (records, figures)."""
    names = sorted(name for name in scores[0].values if _of_landscape(name) and (chosen is None or chosen(name)))
    return np.array([[score.values[name] for name in names] for score in scores], dtype=np.float64)


def around(name: str) -> bool:
    """Whether a figure says only how the loss changes round a text, and not how large it is."""
    levels = ("mean", "least", "largest", "median", "variation")
    return name != LOSS and name not in [NEIGHBOURHOOD + level for level in levels]


def _of_landscape(name: str) -> bool:
    return name in (LOSS, STEEPNESS) or name.startswith(NEIGHBOURHOOD)


def _answer_at(item: Encoded) -> int:
    """Where the scored part begins; 0 where everything is scored."""
    return next((place for place, label in enumerate(item.labels) if label != IGNORED), 0)


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all of at least two different prompts begin with."""
    if len(set(prompts)) < 2:
        return 0
    shortest = min(map(len, prompts))
    return next((n for n in range(shortest) if len({prompt[n] for prompt in prompts}) > 1), shortest)
