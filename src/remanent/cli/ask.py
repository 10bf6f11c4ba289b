"""`remanent ask`."""

from __future__ import annotations

from typing import Annotated

import typer

from remanent.cli.output import console, print_json

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def ask(
    run_or_model: Annotated[str, typer.Argument(help="A run's folder, or a model's folder or name.")],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION...", help="Plain questions.")],
    at: Annotated[str, typer.Option(help="Conditions, separated by commas; attacks excepted.")] = "full",
    before: Annotated[
        str | None, typer.Option(help="The model before unlearning, where no run's folder names it.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System turn, where no run's folder names it.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 48,
    json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Ask a model questions before and after unlearning, side by side.

    Each question is put in the tokenizer's chat template and answered greedily, at each named precision. Of a run's
    folder the model before, the model after and the system turn are taken; of a model, itself.

    [bold]Example[/bold]

    remanent ask runs/r1 "Where was Ada Example born?" --at bf16,int4-row

    [bold]Results[/bold] are printed, and written nowhere.
    """
    from remanent.jobs.ask import ask as run
    from remanent.jobs.folders import sides

    models = sides(run_or_model)
    found = run(
        models.after,
        questions,
        at,
        before=before or models.before,
        max_new_tokens=max_new_tokens,
        system=models.system if system is None else system,
    )
    if json:
        print_json([item.to_dict() for item in found])
        return
    from remanent.cli.tables import answers

    blocks = []
    for question in dict.fromkeys(item.question for item in found):
        given = []
        for item in (item for item in found if item.question == question):
            if item.before is not None:
                given.append((f"{item.condition}, before", item.before))
            given.append((f"{item.condition}, after" if item.before is not None else item.condition, item.after))
        blocks.append((question, given))
    console().print(answers(blocks))
