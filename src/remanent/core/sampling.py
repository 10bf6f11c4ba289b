"""Which records an update sees: a function of the seed and the step alone, so that nothing needs to be saved."""

from __future__ import annotations

import hashlib

import torch


def seed_of(*parts: object) -> int:
    """A seed, at least 0 and below 2^63, from a seed and the names of what it is for."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Sampler:
    """Batches of indices, epoch after epoch, each a permutation of its own.

    Args:
        size: number of records.
        batch_size: records per batch; not more than there are.
        seed: with `role`, decides the permutations.
        role: so that two sets of one run are ordered independently.
    """

    def __init__(self, size: int, batch_size: int, seed: int, role: str) -> None:
        self.size, self.batch_size, self.seed, self.role = size, min(batch_size, size), seed, role
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def batch(self, step: int) -> list[int]:
        """The indices of an update, counted from 1."""
        first = (step - 1) * self.batch_size
        return [self._index(position) for position in range(first, first + self.batch_size)]

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, self.size)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, self.role, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.size, generator=generator)
        return int(self._order[offset])
