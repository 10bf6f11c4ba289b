"""`remanent doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from remanent.cli.options import from_settings
from remanent.cli.output import console, print_json
from remanent.errors import InputError
from remanent.jobs.config import JobSettings, UnlearnSettings

if TYPE_CHECKING:
    from remanent.jobs.doctor import JobEstimate
    from remanent.jobs.machine import Machine

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
@from_settings(UnlearnSettings, optional=True)
def doctor(
    settings: UnlearnSettings | None,
    config: Annotated[Path | None, typer.Argument(help="A file for `remanent run`, or of `remanent teach`.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Show what this machine offers, and what a job would cost on it.

    Versions of packages, processors, whether 16 bits are fast here, whether the default model is at hand. Of a job,
    given as a file or by the options of `remanent unlearn`, also the peak memory and the time, estimated from the
    model's configuration: no weights are loaded, and the estimate says what it assumed. What needs more memory than
    there is comes with the settings that would lower it. A file may also hold settings
    of `remanent teach`, as the config.yaml of its runs does.

    [bold]Example[/bold]

    remanent doctor config.yaml

    remanent doctor --model ./my-model --forget forget.jsonl --retain retain.jsonl --method npo --adapter lora

    [bold]Results[/bold] are printed, and written nowhere.
    """
    from remanent.jobs.doctor import doctor as run
    from remanent.jobs.doctor import read_settings

    if config is not None and settings is not None:
        raise InputError("config", str(config), "a file or options, not both")
    job = None if settings is None else JobSettings(unlearn=settings)
    here, estimate = run(job if config is None else read_settings(config))
    if json:
        print_json({"machine": here.to_dict(), "estimate": None if estimate is None else estimate.to_dict()})
        return
    _show(here, estimate)


def _show(here: Machine, estimate: JobEstimate | None) -> None:
    from remanent.cli.tables import table
    from remanent.report.text import duration

    shown = console()
    accelerators = [f"{name} ({_bytes(memory)})" for name, memory in here.accelerators]
    rows = [
        ("versions", ", ".join(f"{name} {version}" for name, version in here.versions.items())),
        ("processors", f"{here.cores}, of which torch uses {here.threads} threads"),
        ("free memory", None if here.memory is None else _bytes(here.memory)),
        ("accelerators", ", ".join(accelerators) or "none"),
        ("speed", ", ".join(f"{name}: {rate / 1e9:,.3g} GFLOP/s" for name, rate in here.rates.items())),
        ("fast precision", here.fast_precision),
        ("extras", ", ".join(f"{name}: {'yes' if there else 'no'}" for name, there in here.extras.items())),
        ("default model", here.default_model),
    ]
    shown.print(table(("this machine", ""), rows))
    if estimate is None:
        return
    costs = [(f"{item.stage}: {what}", _bytes(size)) for item in estimate.prices for what, size in item.memory.items()]
    for item in estimate.prices:
        costs.append((f"{item.stage}: peak memory", _bytes(item.peak)))
        costs.append((f"{item.stage}: time", f"{duration(item.seconds)} ({item.operations:.1e} operations)"))
    head = [("parameters", f"{estimate.parameters:,}"), ("updates at most", str(estimate.steps))]
    shown.print(table((f"job on {estimate.model}", ""), [*head, *costs]))
    for sentence in estimate.short:
        shown.print(f"Too much: {sentence}", markup=False, highlight=False)
    for sentence in estimate.assumed:
        shown.print(f"Assumed: {sentence}", markup=False, highlight=False)


def _bytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
