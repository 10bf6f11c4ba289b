"""What goes wrong becomes one clear line and an exit code."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import Any

import typer

from remanent.errors import (
    DataError,
    InputError,
    IntegrityError,
    MissingExtraError,
    RemanentError,
    RunConflictError,
    UnsupportedError,
)

BAD_INPUT, DAMAGED, FAILURE, STOPPED = 2, 3, 1, 130
_INPUT = (InputError, DataError, RunConflictError, UnsupportedError, MissingExtraError)
_RESUMABLE = frozenset({"audit", "compare", "demo", "run", "sharpness", "sweep", "teach", "unlearn"})


def guarded(callback: Callable[..., Any], command: str, *, debug: bool) -> Callable[..., Any]:
    """A command's function whose errors end the program with a line on standard error.

    Args:
        callback: the command's function.
        command: its name.
        debug: let errors through, for a traceback.
    """

    @functools.wraps(callback)
    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            return callback(*arguments, **keywords)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            again = "; the same command goes on from where it was" if command in _RESUMABLE else ""
            _end(f"Stopped{again}.", STOPPED)
        except Exception as error:
            if debug or (isinstance(error, OSError) and error.errno == errno.EPIPE):
                raise
            _end(f"Error: {_line(error)}", _code(error))

    return call


def _code(error: Exception) -> int:
    if isinstance(error, _INPUT):
        return BAD_INPUT
    return DAMAGED if isinstance(error, IntegrityError) else FAILURE


def _line(error: Exception) -> str:
    if isinstance(error, RemanentError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    what = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' + what if what else ''} (`remanent --debug ...` shows where)"


def _end(line: str, code: int) -> None:
    typer.echo(line, err=True)
    raise typer.Exit(code)
