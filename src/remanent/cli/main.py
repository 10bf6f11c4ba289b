"""The program `remanent`: its commands are known by name here, and loaded when one is called."""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

# Name -> (module in this room, the first sentence of its help): the program's own help loads none of them.
COMMANDS = {
    "demo": ("demo", "Teach a model fictitious authors, unlearn some of them twice, audit and certify both."),
    "unlearn": ("unlearn", "Make a model forget records."),
    "audit": ("audit", "Ask a saved model what it still knows, at every condition that it may meet."),
    "sharpness": ("sharpness", "Measure how flat the loss of some records is around a model."),
    "sharpness-correlation": (
        "sharpness_correlation",
        "Hold the sharpness of several models against other figures of theirs, such as test error.",
    ),
    "ask": ("ask", "Ask a model questions before and after unlearning, side by side."),
    "keygen": ("keygen", "Make the key pair that signs certificates and verifies them."),
    "certify": ("certify", "Sign what the audit of a run found."),
    "verify": ("verify", "Check a certificate against a model's files and a public key."),
    "report": ("report", "Write the report of one run, or of several side by side, as one HTML file."),
    "purge": ("purge", "Remove what a run or a sweep keeps that still knows, and list what it cannot remove."),
    "controls": ("controls", "Make unseen control records by swapping the entities of the forget records."),
    "export": ("export", "Write a saved model as a GGUF file."),
    "run": ("run", "Unlearn, then audit what came of it, as a YAML file says."),
    "sweep": ("sweep", "Compare methods and settings over seeds, on one model and one set of records."),
    "compare": ("compare", "Compare methods over seeds at one budget of passes, and keep the best model."),
    "init": ("init", "Write a commented YAML file for `remanent run`."),
    "teach": ("teach", "Fine-tune a model on records."),
    "upsample": ("upsample", "Find the records that a model learns late, and write which ones to repeat."),
    "propose": ("propose", "Propose designs that should score higher than those of a table."),
    "methods": ("methods", "List the methods that make a model forget, with their hyper-parameters."),
    "systems": ("systems", "List the published systems that Remanent holds."),
    "doctor": ("doctor", "Show what this machine offers, and what a job would cost on it."),
}
_HELP = """Decide what a neural network keeps, make it forget the rest, and prove it.

`remanent COMMAND --help` explains a command with an example.

Exit codes: 0 done; 1 an audit or a verification that did not hold, or a failure; 2 bad input, which the message
names; 3 a damaged or changed file; 130 stopped by Ctrl-C."""
# What a person who works in a terminal need not read; whoever sets one of these keeps it.
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}

# oneDNN and PyTorch keep what they made for a shape, up to 1024 of them: gigabytes in bfloat16 on a CPU, since records
# differ in length. A language model's step costs far more than to make them anew.
SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}


class _Lazy(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        from remanent.cli.faults import guarded

        name, known, rest = super().resolve_command(ctx, args)
        # Only the completion of a shell, which this program does not offer, goes on with a command that is not there.
        assert name is not None
        assert known is not None
        command = typer.main.get_command(import_module(f"remanent.cli.{COMMANDS[name][0]}").app)
        assert command.callback is not None
        assert command.help is not None  # every command has a docstring
        command.callback = guarded(command.callback, name, debug=ctx.params["debug"])
        command.help = _flowing(command.help)
        return known.name, command, rest


def _flowing(text: str) -> str:
    """Paragraphs without the line breaks of the source, so that they fill the terminal's width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


app = typer.Typer(
    cls=_Lazy,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from remanent import __version__

        typer.echo(f"remanent {__version__}")
        raise typer.Exit


@app.callback(help=_flowing(_HELP))
def _remanent(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and every warning.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """What holds for every command."""
    for name, value in SHAPES.items():
        os.environ.setdefault(name, value)
    if not debug:
        warnings.simplefilter("ignore")
        for package in ("torchao", "torch.utils._pytree"):  # say at import which kernels this machine lacks
            logging.getLogger(package).setLevel(logging.ERROR)
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)


def _unloaded() -> None:
    """Stands in a command's place in the program's help."""


for _name, (_, _summary) in COMMANDS.items():
    app.command(_name, help=_summary)(_unloaded)


def main() -> None:
    """Entry of the program."""
    app(prog_name="remanent")
