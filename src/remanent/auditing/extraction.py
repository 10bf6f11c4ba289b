"""How much of an answer a model writes by itself once it was given the beginning."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from remanent.errors import InputError


def exact_memorization(hits: ArrayLike) -> float:
    """The share of tokens that are the most likely one, given all true tokens before: 1 is known by heart.

    Tirumala et al. (arXiv 2205.10770); OpenUnlearning (arXiv 2506.12618).

    Args:
        hits: bool, (tokens,), at least one.
    """
    return float(_checked(hits).mean())


def extraction_strength(hits: ArrayLike) -> float:
    """The largest share of an answer, counted from its end, that the rest of it brings forth greedily.

    1 - k/n with the smallest k such that every token from k on is the most likely one: 1 where the prompt alone is
    enough, 0 where the last token is missed. Carlini et al. (arXiv 2012.07805); OpenUnlearning (arXiv 2506.12618),
    whose code gives 1/n where nothing matches.

    Args:
        hits: bool, (tokens,), at least one.
    """
    found = _checked(hits)
    missed = np.flatnonzero(~found)
    first = 0 if missed.size == 0 else int(missed[-1]) + 1
    return 1 - first / len(found)


def _checked(hits: ArrayLike) -> np.ndarray:
    found = np.asarray(hits, dtype=bool)
    if found.ndim != 1 or found.size == 0:
        raise InputError("hits", f"shape {found.shape}", "one truth value for each token, at least one")
    return found
