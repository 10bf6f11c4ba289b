"""How much texts have in common, by the words they share: TF-IDF, offline, without a model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

_WORD = re.compile(r"\b\w\w+\b")


def nearest_similarity(texts: Sequence[str], others: Sequence[str]) -> list[float]:
    """For each text the largest of its `similarities`; 0 where there are no others.

    Args:
        texts: whose similarity is asked.
        others: to which.
    """
    return [max(row, default=0.0) for row in similarities(texts, others)]


def similarities(texts: Sequence[str], others: Sequence[str]) -> Iterator[list[float]]:
    """For each text its cosine to each of the others, in [0, 1]; 0 where no word is shared.

    Words of two letters or more without case, counted, times ln((1 + n) / (1 + n_w)) + 1 with n all texts together and
    n_w those that hold the word (scikit-learn's TfidfVectorizer).

    Args:
        texts: whose similarity is asked.
        others: to which.
    """
    counts = [Counter(_WORD.findall(text.casefold())) for text in (*texts, *others)]
    held = Counter(word for found in counts for word in found)
    vectors = [_unit({word: n * _rarity(len(counts), held[word]) for word, n in found.items()}) for found in counts]
    index: dict[str, list[tuple[int, float]]] = {}
    for place, vector in enumerate(vectors[len(texts) :]):
        for word, weight in vector.items():
            index.setdefault(word, []).append((place, weight))
    for vector in vectors[: len(texts)]:
        cosines = [0.0] * len(others)
        for word, weight in vector.items():
            for place, other in index.get(word, ()):
                cosines[place] += weight * other
        yield cosines


def _rarity(count: int, held: int) -> float:
    return math.log((1 + count) / (1 + held)) + 1


def _unit(weights: Mapping[str, float]) -> dict[str, float]:
    length = math.hypot(*weights.values())
    return {word: weight / length for word, weight in weights.items()}
