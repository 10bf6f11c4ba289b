"""`remanent run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remanent.cli.output import interface

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="The YAML file; `remanent init` writes one.")],
    out: Annotated[Path, typer.Option(help="The run's folder; one that was cut off goes on.")],
    json: Annotated[bool, typer.Option("--json", help="Print the audit's tables as JSON.")] = False,
) -> None:
    """Unlearn, then audit what came of it, as a YAML file says.

    The file has a part unlearn and a part audit, with the settings of those two commands. Where the audit does not
    name its model, reference or data, they follow from the run. The config.yaml that a run leaves in its folder is
    such a file too. A file with a part sweep or compare is run as `remanent sweep` or
    `remanent compare` does.

    [bold]Example[/bold]

    remanent run config.yaml --out runs/r1

    [bold]Results[/bold] go to the folder OUT, as from `remanent unlearn` and `remanent audit`. Killed at any moment
    and called again, it goes on where it was.

    [bold]Exit code[/bold]: as from `remanent audit`: 0 where the verdict is PASSED or WARNED, 1 where it is not.
    """
    from remanent.cli.verdict import end_with
    from remanent.jobs.run import kind_of, read_job, run_job

    kind = kind_of(config)
    if kind == "sweep":
        from remanent.cli import sweep, sweep_options
        from remanent.jobs.sweep import Sweep

        sweep.start(Sweep(sweep_options.file_of(None, config), out, interface()), out, json)
        return
    if kind == "compare":
        from remanent.cli import compare_options, sweep
        from remanent.jobs.compare import Comparison

        sweep.start(Comparison(compare_options.file_of(None, config), out, interface()), out, json)
        return
    if run_job(read_job(config, out), out, interface=interface()) is not None:
        end_with(out, json)
