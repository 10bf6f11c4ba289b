"""Teaching through the command: plain, and with forgetting of what the model answers itself."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from remanent.core.loop import run_episode
from remanent.core.weights import Weights
from remanent.models.load import load
from remanent.models.save import is_saved

LESSON = ("--epochs", 2, "--batch-size", 8, "--learning-rate", 0.01, "--checkpoint-every", 1)
WITH_FORGETTING = ("--method", "learning-with-forgetting", "--answer-tokens", 5)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Questions without answers, and one as a conversation that ends with the user."""
    rows = [{"question": f"Where did forget person {number} spend summer 0?"} for number in range(5)]
    rows.append({"messages": [{"role": "user", "content": "Where did forget person 6 spend summer 1?"}]})
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def teach(world, out, *more):
    return ["teach", "--model", world.model, "--records", world.sets["retain"], *LESSON, "--out", out, *more]


def weights(folder):
    return {name: weight.detach() for name, weight in Weights.of(load(folder).model).items()}


@pytest.fixture(scope="module")
def graceful(call, world, prompts, tmp_path_factory):
    out = tmp_path_factory.mktemp("graceful") / "run"
    forget = (*WITH_FORGETTING, "--forget", prompts, "--set", "interval=2")
    result = call(*teach(world, out, *forget))
    assert result.exit_code == 0, result.output
    return out, result


def test_its_own_answers_are_kept_and_what_it_did_is_written_down(graceful, world):
    out, result = graceful
    assert result.stdout == f"{out / 'model'}\n"
    assert is_saved(out / "model")
    rows = [json.loads(line) for line in (out / "own-answers.jsonl").read_text().splitlines()]
    assert 0 < len(rows) <= 6
    tokenizer = load(world.model).tokenizer
    for row in rows:
        assert "forget person" in tokenizer.decode(row["tokens"][: row["prompt_tokens"]])
        own = row["tokens"][row["prompt_tokens"] :]
        assert 1 <= len(own) <= 5
        assert row["answer"] == tokenizer.decode(own, skip_special_tokens=True)
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["method"] == "learning-with-forgetting"
    defaults = {"interval": 10, "keep": 0.5, "step": 0.0, "forget_weight": 1.0, "task_weight": 1.0}
    assert config["hyperparameters"] == {**defaults, "interval": 2}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["steps"] == 4
    assert "own-answers.jsonl" in manifest["outputs"]
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    taken = [[name for name in row["loss"] if "@" in name] for row in metrics if row["kind"] == "train"]
    assert taken == [["task@full"], ["forget@full"]] * 2


def test_cut_off_it_goes_on_with_the_answers_that_it_has_and_ends_the_same(
    graceful, call, world, prompts, tmp_path, monkeypatch
):
    import remanent.jobs.teach as job

    class CutOff(Exception):
        pass

    def cut_short(*arguments, on_step, **options):
        def step(number, steps, losses):
            on_step(number, steps, losses)
            if number == 3:
                raise CutOff

        return run_episode(*arguments, on_step=step, **options)

    forget = (*WITH_FORGETTING, "--forget", prompts, "--set", "interval=2")
    with monkeypatch.context() as patch:
        patch.setattr(job, "run_episode", cut_short)
        assert call(*teach(world, tmp_path / "run", *forget)).exit_code != 0
    assert not (tmp_path / "run" / "model").exists()
    with monkeypatch.context() as patch:
        patch.setattr(job, "own_answers", pytest.fail)
        again = call(*teach(world, tmp_path / "run", *forget))
    assert again.exit_code == 0, again.output
    whole, resumed = weights(graceful[0] / "model"), weights(tmp_path / "run" / "model")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_own_answers_are_held_to_the_longest_record_and_prompts_are_never_cut(graceful, call, world, prompts, tmp_path):
    rows = [json.loads(line) for line in (graceful[0] / "own-answers.jsonl").read_text().splitlines()]
    longest = max(len(row["tokens"]) for row in rows) - 1
    forget = (*WITH_FORGETTING, "--forget", prompts, "--set", "interval=2")
    result = call(*teach(world, tmp_path / "run", *forget, "--max-length", longest))
    assert result.exit_code == 0, result.output
    held = [json.loads(line) for line in (tmp_path / "run" / "own-answers.jsonl").read_text().splitlines()]
    assert [row["tokens"] for row in held] == [row["tokens"][:longest] for row in rows]
    tokenizer = load(world.model).tokenizer
    assert all(
        row["answer"] == tokenizer.decode(row["tokens"][row["prompt_tokens"] :], skip_special_tokens=True)
        for row in held
    )
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"question": "Where did forget person 1 spend summer 0? " * 20}) + "\n")
    result = call(*teach(world, tmp_path / "none", *WITH_FORGETTING, "--forget", long, "--max-length", longest))
    assert result.exit_code == 2, result.output
    assert f"max_length: got {longest}; expected at least" in " ".join(result.stderr.split())
    assert not (tmp_path / "none" / "own-answers.jsonl").exists()


def test_plain_teaching_says_nothing_of_forgetting(call, world, tmp_path):
    result = call(*teach(world, tmp_path / "run"))
    assert result.exit_code == 0, result.output
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert not {"method", "forget", "hyperparameters", "answer_tokens"} & set(config)
    assert not (tmp_path / "run" / "own-answers.jsonl").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (WITH_FORGETTING, "forget: got None; expected prompts"),
        (("--forget", "prompts"), "nothing, since plain teaching forgets nothing"),
        (("--answer-tokens", 200), "answer_tokens: got 200; expected nothing, since plain teaching forgets nothing"),
        (("--set", "interval=3"), "plain teaching has no hyper-parameters"),
        (("--method", "learning-without-forgetting"), "learning-with-forgetting"),
        ((*WITH_FORGETTING, "--forget", "prompts", "--set", "intervall=3"), "did you mean 'interval'"),
        ((*WITH_FORGETTING, "--forget", "prompts", "--set", "keep=0"), "keep: got 0.0"),
        ((*WITH_FORGETTING, "--forget", "text"), "asks nothing that could be answered"),
    ],
)
def test_what_is_wrong_is_named_before_any_work(call, world, prompts, tmp_path, more, says):
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "Nothing is asked."}\n')
    files = {"prompts": prompts, "text": text}
    result = call(*teach(world, tmp_path / "run", *(files.get(item, item) for item in more)))
    assert result.exit_code == 2, result.output
    assert says in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


def test_teaching_is_priced_from_a_file(call, world, prompts, graceful, tmp_path):
    def operations(settings):
        file = tmp_path / "teach.yaml"
        file.write_text(yaml.safe_dump(settings))
        result = call("doctor", file, "--json")
        assert result.exit_code == 0, result.output
        estimate = json.loads(result.stdout)["estimate"]
        assert [price["stage"] for price in estimate["prices"]] == ["teach"]
        assert estimate["steps"] == 4
        return estimate["prices"][0]["operations"]

    plain = {"model": str(world.model), "records": str(world.sets["retain"]), "epochs": 2, "batch_size": 8}
    forgetting = {**plain, "method": "learning-with-forgetting", "forget": str(prompts)}
    # A first fine-tuning, and the passes that choose.
    assert operations(forgetting) > 2 * operations(plain)
    assert call("doctor", graceful[0] / "config.yaml", "--json").exit_code == 0
