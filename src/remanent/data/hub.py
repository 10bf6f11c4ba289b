"""Rows of a data set on the Hugging Face hub, through `datasets`; used only where the user gave its name."""

from __future__ import annotations

from remanent.errors import InputError, MissingExtraError


def hub_rows(repository: str, config: str, split: str, field: str) -> list[tuple[int, object]]:
    """The rows of one split, each with its number from 1.

    Args:
        repository: "owner/name"; a local folder of that path, as `datasets` writes and reads them, comes first.
        config: the configuration; "" for the only or default one.
        split: the split's name.
        field: the setting that named the data set, for the error.

    Raises:
        MissingExtraError: where `datasets` is not installed.
        InputError: where the data set, the configuration or the split cannot be loaded, with the reason.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "data", f"the data set {repository}") from None
    try:
        rows = datasets.load_dataset(repository, config or None, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        name = ":".join(filter(None, (repository, config, split)))
        raise InputError(field, name, f"a data set that can be loaded; `datasets` says: {reason}") from error
    return list(enumerate(rows, start=1))
