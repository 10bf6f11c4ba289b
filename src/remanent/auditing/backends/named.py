"""Back ends by name."""

from __future__ import annotations

from pathlib import Path

from remanent.auditing.backends.ao import TorchaoInt4, TorchaoInt8
from remanent.auditing.backends.base import Backend
from remanent.auditing.backends.bnb import BitsAndBytesInt8, BitsAndBytesNF4
from remanent.auditing.backends.gguf_file import GivenGGUF, WrittenGGUF
from remanent.models.gguf_write import TYPES

FILE = "gguf:"  # what comes before the path of a file that the user made
_ALL: tuple[Backend, ...] = (
    BitsAndBytesInt8(),
    BitsAndBytesNF4(),
    TorchaoInt8(),
    TorchaoInt4(),
    *(WrittenGGUF(kind) for kind in TYPES),
)
BACKENDS = {backend.name: backend for backend in _ALL}


def backend_of(name: str) -> Backend | None:
    """The back end of that name; None where none has it. Raises InputError for a file that is not there."""
    if name.startswith(FILE):
        return GivenGGUF.of(Path(name.removeprefix(FILE)).expanduser())
    return BACKENDS.get(name)
