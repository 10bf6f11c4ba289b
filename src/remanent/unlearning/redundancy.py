"""What of a deletion request repeats earlier ones, and would hardly be missed: FIT's filter.

A request is cut into chunks of tokens, and each chunk becomes a vector. A chunk whose vector is like one that an
earlier request left in memory, and without which the request's loss hardly changes, is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from remanent.core.activations import decoder_layers, hidden_states
from remanent.core.batch import IGNORED, Encoded, collate
from remanent.core.layer_attribution import mean_loss
from remanent.core.scores import RecordScores, score_records
from remanent.errors import InputError, UnsupportedError

OWN = "own"
CENTRED_ON = 64  # retained records, at most, whose mean state is taken off
_BATCH = 16


@dataclass(frozen=True)
class Chunk:
    """Consecutive scored tokens of one record.

    Args:
        record: the record's place in its request.
        start, stop: its tokens, from `start` to before `stop`.
    """

    record: int
    start: int
    stop: int


def chunks_of(records: Sequence[Encoded], size: int) -> list[Chunk]:
    """The scored part of every record in pieces of at most `size` tokens, in order. What is not scored is in none."""
    found = []
    for place, record in enumerate(records):
        scored = [position for position, label in enumerate(record.labels) if label != IGNORED]
        runs: list[list[int]] = []
        for position in scored:
            if not runs or runs[-1][-1] + 1 != position or len(runs[-1]) == size:
                runs.append([])
            runs[-1].append(position)
        found += [Chunk(place, run[0], run[-1] + 1) for run in runs]
    return found


def without(record: Encoded, dropped: Sequence[Chunk]) -> Encoded:
    """A record without some of its chunks: their tokens are gone, not only their labels."""
    gone = {position for chunk in dropped for position in range(chunk.start, chunk.stop)}
    left = [position for position in range(len(record.input_ids)) if position not in gone]
    return replace(
        record,
        input_ids=tuple(record.input_ids[position] for position in left),
        labels=tuple(record.labels[position] for position in left),
    )


@torch.no_grad()
def own_vectors(model: nn.Module, records: Sequence[Encoded], chunks: Sequence[Chunk]) -> Tensor:
    """Mean state of each chunk's tokens after the model's middle layer, read in its record: float32, (chunks, width).

    A first token is left out where its chunk has others, since models give it a state unlike all others'.
    """
    middle, device = len(decoder_layers(model)) // 2, next(model.parameters()).device
    rows: list[Tensor] = []
    for first in range(0, len(records), _BATCH):
        indices = range(first, min(first + _BATCH, len(records)))
        states = hidden_states(model, collate(records, indices, 0).to(device), middle).float().cpu()
        for chunk in chunks:
            if chunk.record in indices:
                start = max(chunk.start, min(1, chunk.stop - 1))
                rows.append(states[chunk.record - first, start : chunk.stop].mean(dim=0))
    return torch.stack(rows)


def own_centre(model: nn.Module, records: Sequence[Encoded]) -> Tensor:
    """Mean of the states of some retained records, (width,): what all states share, and would make all chunks alike."""
    chosen = [records[place * len(records) // CENTRED_ON] for place in range(CENTRED_ON)]
    asked = chosen if len(records) > CENTRED_ON else list(records)
    longest = max(len(record.input_ids) for record in asked)
    return own_vectors(model, asked, chunks_of(asked, longest)).mean(dim=0)


def encoder_vectors(model: nn.Module, records: Sequence[Encoded], chunks: Sequence[Chunk], encoder: str) -> Tensor:
    """Each chunk alone, as text, by a sentence encoder's pooled output: float32, (chunks, width).

    Args:
        model: whose tokenizer lies where its configuration says that it came from.
        records: with the chunks.
        chunks: what is encoded.
        encoder: a folder or a hub name, such as "princeton-nlp/sup-simcse-bert-base-uncased", FIT's.

    Raises InputError where there is no such encoder, UnsupportedError where the model's tokenizer cannot be found or
    the encoder has no pooled output.
    """
    words = _tokenizer(str(getattr(model.config, "_name_or_path", "") or ""))
    texts = [words.decode(records[item.record].input_ids[item.start : item.stop]) for item in chunks]
    reader, network = _encoder(encoder)
    rows = []
    with torch.no_grad():
        for start in range(0, len(texts), _BATCH):
            # What is nothing but spaces still needs a row.
            given = [text if text.strip() else "." for text in texts[start : start + _BATCH]]
            pooled = network(**reader(given, return_tensors="pt", padding=True, truncation=True)).pooler_output
            if pooled is None:
                raise UnsupportedError(f"{encoder} has no pooled output, which stands for a text")
            rows.append(pooled.float())
    return torch.cat(rows)


@lru_cache(maxsize=1)
def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UnsupportedError(
            f"an encoder reads text, and the model's tokenizer is not at {name or 'a place that it names'}; use "
            f"encoder={OWN}"
        ) from error


@lru_cache(maxsize=1)
def _encoder(name: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    except (OSError, ValueError) as error:
        raise InputError("fit.encoder", name, f"{OWN}, or a folder or hub name of a sentence encoder") from error


def likeness(vectors: Tensor, memory: Tensor) -> Tensor:
    """Cosine of each vector with the one in memory that is most like it: (vectors,); -1 where memory is empty."""
    if not len(memory):
        return torch.full((len(vectors),), -1.0)
    unit = functional.normalize(vectors.float(), dim=-1)
    return (unit @ functional.normalize(memory.float(), dim=-1).T).max(dim=1).values


def redundant(
    model: nn.Module,
    records: Sequence[Encoded],
    chunks: Sequence[Chunk],
    like: Tensor,
    similarity: float,
    epsilon: float,
) -> list[Chunk]:
    """The chunks that an earlier request has seen and this one would hardly miss.

    Those whose likeness is at least `similarity`, and without which the token mean NLL of the request, on the model as
    it is, changes by at most `epsilon` nats. Each is left out alone, with its tokens; a request of which nothing would
    be left has a loss of 0 then.

    Source: FIT, arXiv 2601.21682, redundancy filtering; the form of its code.
    """
    suspects = [chunk for chunk, value in zip(chunks, like.tolist(), strict=True) if value >= similarity]
    if not suspects:
        return []
    whole = score_records(model, records, pad_id=0)
    left = [without(records[chunk.record], [chunk]) for chunk in suspects]
    asked = [place for place, record in enumerate(left) if record.scored]
    found = score_records(model, [left[place] for place in asked], pad_id=0) if asked else None
    dropped = []
    for place, chunk in enumerate(suspects):
        nll, tokens = whole.nll.clone(), whole.tokens.clone()
        row = asked.index(place) if found is not None and left[place].scored else None
        nll[chunk.record] = 0.0 if row is None or found is None else found.nll[row]
        tokens[chunk.record] = 0.0 if row is None or found is None else found.tokens[row]
        if abs(mean_loss(RecordScores(nll, tokens, whole.hits)) - mean_loss(whole)) <= epsilon:
            dropped.append(chunk)
    return dropped
