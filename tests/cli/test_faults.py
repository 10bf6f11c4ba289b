from __future__ import annotations

import errno

import pytest
import typer

from remanent.cli.faults import guarded
from remanent.errors import (
    DataError,
    DivergedError,
    InputError,
    IntegrityError,
    MissingExtraError,
    RunConflictError,
    UnsupportedError,
)


def failing(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("at", "int5", "a format"), 2, "Error: at: got 'int5'; expected a format\n"),
        (DataError("a.jsonl", 3, "answer", "is empty"), 2, "Error: a.jsonl, line 3, field 'answer': is empty\n"),
        (RunConflictError("other settings"), 2, "Error: other settings\n"),
        (UnsupportedError("packed already"), 2, "Error: packed already\n"),
        (MissingExtraError("datasets", "data", "TOFU"), 2, "pip install 'remanent[data]'\n"),
        (IntegrityError("cut off"), 3, "Error: cut off\n"),
        (DivergedError("step 3:\n  forget is nan"), 1, "Error: step 3: forget is nan\n"),
        (PermissionError(errno.EACCES, "Permission denied", "out/x"), 1, "Error: out/x: Permission denied\n"),
        (ZeroDivisionError("division by zero"), 1, "Error: ZeroDivisionError: division by zero (`remanent --debug"),
    ],
)
def test_an_error_is_one_line_and_a_code(capsys, error, code, line):
    with pytest.raises(typer.Exit) as ended:
        guarded(failing(error), "audit", debug=False)()
    assert ended.value.exit_code == code
    said = capsys.readouterr()
    assert said.out == ""
    assert line in said.err
    assert said.err.count("\n") == 1


def test_debug_lets_an_error_through():
    with pytest.raises(InputError):
        guarded(failing(InputError("at", "x", "y")), "audit", debug=True)()


@pytest.mark.parametrize(("command", "says"), [("unlearn", True), ("run", True), ("compare", True), ("verify", False)])
def test_ctrl_c_says_whether_the_run_goes_on(capsys, command, says):
    with pytest.raises(typer.Exit) as ended:
        guarded(failing(KeyboardInterrupt()), command, debug=False)()
    assert ended.value.exit_code == 130
    assert ("goes on from where it was" in capsys.readouterr().err) == says


def test_a_reader_that_went_away_is_left_to_the_program():
    with pytest.raises(BrokenPipeError):
        guarded(failing(BrokenPipeError(errno.EPIPE, "Broken pipe")), "methods", debug=False)()


def test_a_result_and_an_exit_code_pass():
    assert guarded(lambda: 7, "audit", debug=False)() == 7
    with pytest.raises(typer.Exit) as ended:
        guarded(failing(typer.Exit(1)), "audit", debug=False)()
    assert ended.value.exit_code == 1
