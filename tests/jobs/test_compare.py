"""Comparisons from end to end on a tiny model: one budget, references beside, the best model stays, memory flat."""

from __future__ import annotations

import gc
import shutil

import pytest
import torch
import yaml

from remanent.core.files import read_json
from remanent.errors import InputError
from remanent.jobs.compare import Comparison, compare
from remanent.jobs.compare_config import CompareFile
from remanent.jobs.progress import Interface
from remanent.jobs.purge import plan_purge, purge
from remanent.jobs.run import read_job
from remanent.jobs.sweep_config import EXECUTION

METHODS = {
    "npo": {"learning_rate": 3e-3, "hyperparameters": {"retain_weight": 8.0}},
    "ssd": {"hyperparameters": {"alpha": 5.0}},
    "retrain": {"epochs": 3, "learning_rate": 5e-3},
}
BUDGET = 64


def asked(world, methods=METHODS, **compare_settings):
    data = world.data(
        unlearn={"base": str(world.model.parent.parent / "base"), "learning_rate": 1e-3}, audit={"at": "full,int4-row"}
    )
    del data["sweep"]
    return {**data, "compare": {"methods": methods, "seeds": [0, 1], "budget": BUDGET, **compare_settings}}


def live():
    """Bytes of all tensors that are still held."""
    gc.collect()
    found = (item for item in gc.get_objects() if type(item) in (torch.Tensor, torch.nn.Parameter))
    # Other tests of the process may have left a compiler's tensors, whose sizes are symbols.
    return sum(item.nbytes for item in found if not any(isinstance(size, torch.SymInt) for size in item.shape))


@pytest.fixture(scope="module")
def compared(sweep_world, tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "c1"
    held = []

    class Watched(Comparison):
        def _take(self, row, advance):
            super()._take(row, advance)
            held.append(live())

    view = Watched(CompareFile.model_validate(asked(sweep_world)), out, Interface()).run()
    return out, view, held


def rows(out):
    return read_json(out / "compare.json")["trials"]


def test_a_row_for_each_method_and_seed_within_one_budget(compared):
    out, view, _ = compared
    assert [(row["method"], row["seed"]) for row in rows(out)] == [
        (method, seed) for method in METHODS for seed in (0, 1)
    ]
    assert {row["status"] for row in rows(out)} == {"done"}
    passes = {row["method"]: row["passes"] for row in rows(out)}
    assert passes["npo"] == BUDGET
    assert 0 < passes["ssd"] <= BUDGET
    assert passes["retrain"] > BUDGET  # a reference is held to none
    assert [item.method for item in view.settings] == ["npo", "ssd"]


def test_each_method_has_its_own_settings(compared):
    out, _, _ = compared
    made = {
        row["method"]: yaml.safe_load((out / "trials" / row["name"] / "config.yaml").read_text()) for row in rows(out)
    }
    assert (made["npo"]["learning_rate"], made["npo"]["hyperparameters"]["retain_weight"]) == (3e-3, 8.0)
    assert made["ssd"]["hyperparameters"]["alpha"] == 5.0
    assert made["ssd"]["learning_rate"] is None
    assert made["retrain"]["learning_rate"] == 5e-3


def test_the_references_are_the_original_and_the_retrained(compared):
    out, view, _ = compared
    original, retrained = view.references
    assert (original.method, retrained.method) == ("original", "retrain")
    measured = read_json(out / "trials" / rows(out)[0]["name"] / "audit.json")["measurements"]
    mean = {
        item["records"]: sum(score["nll"] for score in item["scores"]) / len(item["scores"])
        for item in measured
        if (item["subject"], item["condition"]) == ("original", original.worst_at[0])
    }
    assert original.gap.value == pytest.approx(mean["control"] - mean["forget"])
    assert (original.forget_nll, original.control_nll) == pytest.approx((mean["forget"], mean["control"]))
    assert original.gap.value > retrained.gap.value  # it knows what the other never saw
    assert view.chosen != retrained.name


def test_unseen_stands_beside_forgotten_and_the_cost_is_there(compared):
    _, view, _ = compared
    for item in (*view.settings, *view.references):
        assert item.control_nll - item.forget_nll == pytest.approx(item.gap.value)
        if item.rows:
            assert item.seconds > 0
            assert item.peak_memory > 10**7


def test_aggregates_of_a_real_comparison(compared):
    out, view, _ = compared
    original, retrained = view.references
    assert read_json(out / "compare.json")["hypervolume"] == view.hypervolume
    assert 0 < view.hypervolume <= 1
    assert view.harmonic_mean(original) == 0  # of all that it knew nothing is forgotten
    assert all(view.speed_up(item) > 0 for item in (*view.settings, retrained))


def test_the_best_model_alone_stays(compared):
    out, view, _ = compared
    assert view.chosen is not None, [row["forget_gap"] for row in rows(out)]
    chosen = [row for row in rows(out) if row["setting"] == view.chosen]
    assert view.best == max(chosen, key=lambda row: row["retention"]["value"])["name"]
    assert read_json(out / "compare.json")["best"] == view.best
    kept = [folder.parent.name for folder in (out / "trials").rglob("model") if folder.is_dir()]
    assert kept == [view.best]
    assert (out / "trials" / view.best / "model" / "model.safetensors").is_file()
    assert read_job(out / "chosen.yaml", out / "elsewhere").unlearn.method == view.chosen.rpartition("-")[0]


def test_what_is_held_does_not_grow_with_the_trials(compared, sweep_world):
    _, _, held = compared
    model = (sweep_world.model / "model.safetensors").stat().st_size
    assert len(held) == 6
    assert max(held) - held[0] < model / 4, held


def test_it_goes_on_and_the_file_it_leaves_is_itself(compared, sweep_world, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(compared[0], out)
    file = CompareFile.model_validate(yaml.safe_load((out / "compare.yaml").read_text()))
    given = CompareFile.model_validate(asked(sweep_world))
    without = {"compare": set(EXECUTION)}
    assert file.model_dump(exclude=without) == given.model_dump(exclude=without)
    stamps = {item: item.stat().st_mtime_ns for item in (out / "trials").rglob("*") if item.is_file()}
    before = rows(out)
    view = compare(file, out)
    assert {item: item.stat().st_mtime_ns for item in stamps} == stamps
    assert rows(out) == before
    more = compare(CompareFile.model_validate(asked(sweep_world, {"npo": METHODS["npo"], "guardrail": {}})), out)
    assert [item.method for item in more.settings] == ["npo", "guardrail"]
    assert {item: item.stat().st_mtime_ns for item in stamps if item.exists()}.items() <= stamps.items()
    assert view.best in {row["name"] for row in before}


def test_the_page_shows_both(compared):
    page = (compared[0] / "compare.html").read_text(encoding="utf-8")
    for text in ("Comparison", "Unseen NLL", "reference", "retrain", "original", "Peak memory", "<svg"):
        assert text in page


def test_a_method_of_which_a_seed_failed_keeps_its_best_model_until_that_is_tried_again(
    sweep_world, tmp_path, monkeypatch
):
    import remanent.jobs.sweep_trial as module

    audited, failing = module.run_audit, ["seed1"]

    def audit(settings, out, **more):
        if any("npo" in str(out) and str(out).endswith(end) for end in failing):
            raise MemoryError("no memory left")
        return audited(settings, out, **more)

    def model(view, method, seed):
        (row,) = [row for row in view.rows if (row["method"], row["seed"]) == (method, seed)]
        return tmp_path / "trials" / row["name"] / "model"

    monkeypatch.setattr(module, "run_audit", audit)
    given = asked(sweep_world, {"npo": METHODS["npo"], "guardrail": {}}, budget=16)
    given["unlearn"]["base"] = None
    given["audit"] |= {"at": "full", "epsilon": 9.0}
    view = compare(CompareFile.model_validate(given), tmp_path)
    assert view.chosen.startswith("guardrail")
    assert model(view, "npo", 0).is_dir()
    failing.clear()
    view = compare(CompareFile.model_validate(given), tmp_path)
    assert view.chosen.startswith("npo")
    assert [folder.parent.name for folder in tmp_path.rglob("model") if folder.is_dir()] == [view.best]


def test_the_chosen_file_has_the_seed_of_the_best(sweep_world, tmp_path, monkeypatch):
    import remanent.jobs.sweep_trial as module

    told = module.judged

    def judged(folder):
        found = told(folder)
        kept = found["retention"] | {"value": 0.9 if folder.name.endswith("seed1") else 0.5}
        return found | {"retention": kept}

    monkeypatch.setattr(module, "judged", judged)
    given = asked(sweep_world, {"npo": METHODS["npo"]}, budget=16)
    given["unlearn"]["base"] = None
    given["audit"] |= {"at": "full", "epsilon": 9.0}
    view = compare(CompareFile.model_validate(given), tmp_path)
    assert view.best.endswith("seed1")
    assert read_job(tmp_path / "chosen.yaml", tmp_path).unlearn.seed == 1


def test_purged_it_keeps_the_best_model_and_lists_it(compared, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "purged"
    shutil.copytree(compared[0], out)
    best = out / "trials" / compared[1].best
    plan = plan_purge(out)
    purge(plan)
    assert not (out / "audits").exists()
    assert (best / "model" / "model.safetensors").is_file()
    verdict = read_json(best / "judgement.json")["verdict"]
    assert [item.what for item in plan.remains if item.path == str(best / "model")] == [
        f"the model of a trial, whose audit says {verdict}"
    ]
    assert [item["state"] for item in read_json(out / "manifest.json")["purged"]] == ["done"]


def test_what_cannot_run_is_said_before_any_work(sweep_world, tmp_path):
    for given, field in (
        ({"methods": {"npoo": {}}}, "npoo"),
        ({"methods": {"npo": {"hyperparameters": {"betta": 1.0}}}}, "betta"),
        ({"methods": {"ssd": {"learning_rate": 1e-3}}}, "learning_rate"),
        ({"methods": ["npo"], "budget": 3}, "budget"),
        ({"methods": ["ssd"], "budget": 10}, "budget"),
        ({"methods": ["npo"], "seeds": [1, 1]}, "compare.seeds"),
    ):
        with pytest.raises(InputError, match=field):
            compare(CompareFile.model_validate(asked(sweep_world, **given)), tmp_path / "none")
    mistyped = asked(sweep_world)
    mistyped["audit"]["retrained"] = "./typo"
    with pytest.raises(InputError, match=r"retrained: got '\./typo'"):
        compare(CompareFile.model_validate(mistyped), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_in_python_the_same_is_asked(sweep_world, tmp_path, monkeypatch):
    import remanent.jobs.compare as job
    from remanent import api

    seen = []
    monkeypatch.setattr(job, "compare", lambda file, out, interface: seen.append((file, out)))
    files = {role: str(file) for role, file in sweep_world.files.items()}
    methods = {"npo": {"learning_rate": 1e-3}, "ssd": {}}
    api.compare("m", methods, budget=50, **files, out=tmp_path, seeds=(3,), batch_size=4, audit={"at": "full"})
    ((file, out),) = seen
    assert out == tmp_path
    assert file == CompareFile.model_validate(
        {
            "compare": {"methods": methods, "seeds": [3], "budget": 50},
            "unlearn": {"model": "m", "data": files, "batch_size": 4},
            "audit": {"at": "full"},
        }
    )
    with pytest.raises(InputError, match="batch_sise"):
        api.compare("m", ["npo"], budget=50, **files, out=tmp_path, batch_sise=4)
