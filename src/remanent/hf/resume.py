"""What Trainer.train(resume_from_checkpoint) means."""

from __future__ import annotations

import os

from transformers.trainer_utils import get_last_checkpoint


def checkpoint_to_resume(asked: str | os.PathLike[str] | bool | None, output_dir: str | None) -> str | bool | None:
    """The folder to resume from; what was asked, for Trainer to deal with, where that names none."""
    if asked is True and output_dir is not None:
        return get_last_checkpoint(output_dir) or True  # type: ignore[no-untyped-call]
    return os.fspath(asked) if isinstance(asked, os.PathLike) else asked
