"""Records of several roles as the one data set that Trainer iterates over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data import Sampler as TorchSampler

from remanent.core.batch import Encoded
from remanent.core.sampling import Sampler

Item = tuple[int | None, ...]


class RoleDataset(Dataset[Item]):
    """Position of a run -> the record that each role has there, as an index into its set.

    Positions count through the run, `batch_size` of them to an update; which records an update sees is what the loop
    would give it under the same seed. A role with fewer records than that has None at an update's last positions.
    What goes through Trainer's loader are indices: the update pads all its records together, as the loop does.

    Args:
        data: role -> records, in the method's order of roles.
        batch_size: records of each role per update, over all processes and accumulated batches.
        seed: of the order.
        paired: role -> the role in whose order its records come.
    """

    def __init__(
        self, data: Mapping[str, Sequence[Encoded]], batch_size: int, seed: int, paired: Mapping[str, str]
    ) -> None:
        self.data, self.batch_size = dict(data), batch_size
        self.samplers = [
            Sampler(len(records), batch_size, seed, paired.get(role, role)) for role, records in data.items()
        ]
        self._update, self._indices = -1, [list[int]()]

    @property
    def updates_per_pass(self) -> int:
        """Updates in one pass over the first role's records; the last one goes on into the next pass."""
        return math.ceil(len(next(iter(self.data.values()))) / self.batch_size)

    def __len__(self) -> int:
        return self.updates_per_pass * self.batch_size

    def __getitem__(self, position: int) -> Item:
        update, offset = divmod(position, self.batch_size)
        if update != self._update:
            self._update = update
            self._indices = [sampler.batch(update + 1) for sampler in self.samplers]
        return tuple(indices[offset] if offset < len(indices) else None for indices in self._indices)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Role -> int64 indices of the records that it has at some positions."""
        columns = zip(*items, strict=True)
        return {
            role: torch.tensor([index for index in column if index is not None], dtype=torch.int64)
            for role, column in zip(self.data, columns, strict=True)
        }


class Positions(TorchSampler[int]):
    """The positions of one pass, in order: what is random lies in the data set.

    Args:
        length: positions in a pass.
    """

    def __init__(self, length: int) -> None:
        self.length, self.passes = length, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.passes * self.length, (self.passes + 1) * self.length))
