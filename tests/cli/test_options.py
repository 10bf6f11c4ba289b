from __future__ import annotations

import inspect

import pytest
import typer
from typer.testing import CliRunner

from remanent.cli.options import from_settings, options
from remanent.errors import InputError
from remanent.jobs.config import AuditSettings, DataSettings, TeachSettings, UnlearnSettings


def application(kind, optional=False):
    app = typer.Typer(add_completion=False)
    seen = []

    @app.command()
    @from_settings(kind, optional=optional)
    def command(settings, out: str = "here"):
        """Do it."""
        seen.append((settings, out))

    def call(*arguments):
        result = CliRunner().invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result, seen[-1] if seen else None

    return call


@pytest.mark.parametrize("kind", [UnlearnSettings, AuditSettings, TeachSettings])
def test_every_field_is_an_option_with_its_description(kind):
    found = {option.path: option for option in options(kind)}
    fields = {(name,): field for name, field in kind.model_fields.items() if name != "data"}
    if "data" in kind.model_fields:
        fields |= {("data", name): field for name, field in DataSettings.model_fields.items()}
    assert {path: option.field.description for path, option in found.items()} == {
        path: field.description for path, field in fields.items()
    }
    assert all(option.field.description for option in found.values())


def test_the_records_options_are_those_of_the_manual():
    flags = {option.flag for option in options(UnlearnSettings) if option.panel == "Records"}
    assert flags == {"--forget", "--retain", "--control", "--text", "--system", "--split-seed", "--max-length"}


def test_what_is_not_said_has_the_models_default():
    _, (settings, out) = application(UnlearnSettings)("--model", "m")
    assert settings == UnlearnSettings(model="m", data=DataSettings())
    assert out == "here"


def test_values_arrive_with_their_types():
    _, (settings, _) = application(UnlearnSettings)(
        *("--model", "m", "--forget", "f.jsonl", "--split-seed", "3", "--no-stop", "--steps", "7"),
        *("--schedule", "cosine", "--learning-rate", "1e-3", "--adapter", "lora-nf4", "--out", "x"),
    )
    assert (settings.data.forget, settings.data.split_seed) == ("f.jsonl", 3)
    assert (settings.stop, settings.steps, settings.schedule) == (False, 7, "cosine")
    assert (settings.learning_rate, settings.adapter) == (1e-3, "lora-nf4")


def test_a_hyperparameter_is_typed_by_the_methods_signature():
    _, (settings, _) = application(UnlearnSettings)(
        *("--model", "m", "--method", "durableun-saf", "--set", "alpha=1", "--set", "quantize_retain=true"),
        *("--set", "rounding=int8"),
    )
    assert settings.hyperparameters == {"alpha": 1.0, "quantize_retain": True, "rounding": "int8"}
    assert isinstance(settings.hyperparameters["alpha"], float)


def test_a_refused_value_names_the_option():
    call = application(UnlearnSettings)
    with pytest.raises(InputError, match=r"--lora-rank: got 0; expected .*greater than or equal to 1"):
        call("--model", "m", "--lora-rank", "0")
    with pytest.raises(InputError, match=r"--split-seed: got -1"):
        call("--model", "m", "--split-seed", "-1")


def test_a_value_of_another_type_or_choice_is_refused():
    call = application(UnlearnSettings)
    result, _ = call("--model", "m", "--steps", "many")
    assert result.exit_code == 2
    assert "--steps" in result.stderr
    result, _ = call("--model", "m", "--schedule", "zigzag")
    assert result.exit_code == 2
    assert "cosine" in result.stderr


def test_optional_settings_are_none_where_no_option_is_given():
    call = application(UnlearnSettings, optional=True)
    assert call()[1][0] is None
    assert call("--model", "m")[1][0].model == "m"
    with pytest.raises(InputError, match="--model"):
        call("--method", "npo")


def test_the_commands_own_name_and_help_stay():
    @from_settings(TeachSettings)
    def command(settings: TeachSettings) -> None:
        """What it does."""

    assert (command.__name__, command.__doc__) == ("command", "What it does.")
    assert "settings" not in inspect.signature(command).parameters
