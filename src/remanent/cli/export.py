"""`remanent export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="The run's folder, or a model: a folder, a hub name.")],
    gguf: Annotated[Path, typer.Option(help="The file to write; it ends in .gguf.")],
    type: Annotated[
        str, typer.Option(help="How matrices are stored: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0.")
    ] = "q8_0",
) -> None:
    """Write a saved model as a GGUF file.

    For llama.cpp, and for whatever reads its files: Llama, Mistral, Qwen2 and Qwen3, with the tokenizer. A LoRA is
    merged first. What was audited is the folder and not the file: audit the file too, with `remanent audit --at`
    gguf:FILE.

    [bold]Example[/bold]

    remanent export runs/r1 --gguf model.gguf --type q4_0

    [bold]Results[/bold] go to the file, whose path is printed.

    Next: `remanent audit --model runs/r1/model --at gguf:model.gguf`.
    """
    from remanent.jobs.export import export as write

    typer.echo(write(run, gguf, type))
