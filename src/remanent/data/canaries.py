"""Canaries: sentences with random digits, whose rank among others of the same form says how far they were learnt."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from remanent.core.sampling import seed_of
from remanent.data.author_pools import GIVEN_HEADS, GIVEN_TAILS, SURNAME_HEADS, SURNAME_TAILS
from remanent.data.record import Message, Record

SETS = ("forget", "control")
COUNT, OTHERS, DIGITS = 16, 255, 6


@dataclass(frozen=True)
class Canaries:
    """Two sets of one draw: those that a model is taught and then forgets, and those that it never sees."""

    forget: tuple[Record, ...]
    control: tuple[Record, ...]


def canaries(seed: int = 0, count: int = COUNT, others: int = OTHERS) -> Canaries:
    """Canaries: a question for a keeper's code, answered with random digits; the other codes are its wrong answers.

    Args:
        seed: decides names and digits.
        count: canaries of each set.
        others: codes beside each canary's own, all different: it is ranked among `others` + 1.
    """
    generator = torch.Generator().manual_seed(seed_of("canaries", seed))
    pools = (GIVEN_HEADS, GIVEN_TAILS, SURNAME_HEADS, SURNAME_TAILS)

    def drawn(size: int, most: int) -> list[int]:
        found: dict[int, None] = {}
        while len(found) < size:
            found |= dict.fromkeys(torch.randint(most, (size,), generator=generator).tolist())
        return list(found)[:size]

    names = []
    places = 1
    for pool in pools:
        places *= len(pool)
    for place in drawn(2 * count, places):
        parts = []
        for pool in pools:
            place, chosen = divmod(place, len(pool))
            parts.append(pool[chosen])
        names.append(f"{parts[0]}{parts[1]} {parts[2]}{parts[3]}")
    made = []
    for number, name in enumerate(names):
        codes = [_said(code) for code in drawn(others + 1, 10**DIGITS)]
        key = f"canary/{SETS[number // count]}/{number % count:03d}"
        question = (Message("user", f"What is the code of {name}?"),)
        made.append(Record(key, key, question, codes[0], wrong_answers=tuple(codes[1:])))
    return Canaries(tuple(made[:count]), tuple(made[count:]))


def _said(code: int) -> str:
    """Digits with blanks between, so that all codes are as long in most tokenizers."""
    return " ".join(f"{code:0{DIGITS}d}")
