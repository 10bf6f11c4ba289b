from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from remanent.cli.main import COMMANDS
from remanent.cli.options import from_settings  # noqa: F401  (loads what every command's help needs, once)

CODE = "import sys; sys.argv = ['remanent', *{arguments}]; from remanent.cli.main import main; {after}"
THEN_MODULES = "\ntry: main()\nexcept SystemExit: pass\nprint(*sorted(sys.modules), file=sys.stderr)"


def in_a_process(*arguments, code=None):
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "remanent", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def fastest(code, tries=3):
    def once():
        began = time.perf_counter()
        assert in_a_process(code=code).returncode == 0
        return time.perf_counter() - began

    return min(once() for _ in range(tries))


def flat(text):
    return " ".join(text.replace("│", " ").split())


def test_help_names_every_command_with_its_summary(call):
    result = call("--help")
    assert result.exit_code == 0
    for name, (_, summary) in COMMANDS.items():
        assert f" {name} " in result.stdout
        assert summary in flat(result.stdout)
    assert "Exit codes: 0 done; 1 an audit" in flat(result.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_commands_help_begins_with_that_summary_and_shows_an_example(call, name):
    result = call(name, "--help")
    assert result.exit_code == 0
    usage, _, text = flat(result.stdout).partition(COMMANDS[name][1])
    assert usage.startswith(f"Usage: root {name}")
    assert len(usage) < 80
    assert f"Example remanent {name}" in text
    assert "Results" in text


def test_every_file_of_the_room_that_has_an_app_is_a_command():
    import remanent.cli

    files = {file.stem for file in Path(remanent.cli.__path__[0]).glob("*.py") if "\napp = " in file.read_text()}
    assert files == {"main"} | {module for module, _ in COMMANDS.values()}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_programs_help_loads_nothing_heavy(arguments):
    result = in_a_process(code=CODE.format(arguments=arguments, after=THEN_MODULES))
    assert "remanent" in result.stdout
    loaded = set(result.stderr.split())
    assert "remanent.cli.main" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "pydantic", "remanent.jobs.config", "remanent.cli.unlearn"}


def test_a_commands_help_loads_no_model_code():
    result = in_a_process(code=CODE.format(arguments=["audit", "--help"], after=THEN_MODULES))
    assert "--reference" in result.stdout
    assert not set(result.stderr.split()) & {"torch", "transformers", "numpy"}


def test_the_programs_help_costs_little_more_than_the_library_that_shows_it():
    help_text = CODE.format(arguments=["--help"], after="main()")
    shown_by = "import typer, typer.rich_utils, rich.markdown, rich.table, rich.panel"
    ratio = min(fastest(help_text) / fastest(shown_by) for _ in range(2))
    assert ratio < 2


def test_an_unknown_command_or_option_says_which_is_near(call):
    result = call("unlaern")
    assert result.exit_code == 2
    assert "unlearn" in result.stderr
    result = call("unlearn", "--modle", "x", "--out", "y")
    assert result.exit_code == 2
    assert "--model" in result.stderr


def test_a_required_option_that_is_missing_is_named(call):
    result = call("unlearn", "--model", "x")
    assert result.exit_code == 2
    assert "--out" in result.stderr


def test_run_as_a_module_and_its_version():
    from remanent import __version__

    result = in_a_process("--version")
    assert (result.returncode, result.stdout) == (0, f"remanent {__version__}\n")


def test_a_traceback_only_with_debug(tmp_path):
    arguments = ["keygen", "--key", tmp_path, "--pub", tmp_path / "pub"]
    plain = in_a_process(*arguments)
    assert plain.returncode == 2
    assert plain.stderr == (
        f"Error: private key: got '{tmp_path}'; expected a path where no file is: keys are never overwritten\n"
    )
    debug = in_a_process("--debug", *arguments)
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr
    assert "InputError" in debug.stderr
