"""FIT on a stream of requests: what its parts do on a few, and the certificates of a hundred.

`fit_table` compares it with other methods and with itself without its parts.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from remanent.core.loop import with_settings
from remanent.core.weights import Weights
from remanent.data.record import Record
from remanent.data.requests import Request

from .fit_table import FIT, FIT_RATE, at_random, way
from .requests_world import RequestsWorld


@pytest.fixture(scope="module")
def few():
    """Ten requests, three of which repeat an earlier one, on a model that knows little else."""
    return RequestsWorld(requests=10, repeated=3, retain=24, background=8, layers=3)


def after(world, method):
    world.obey(method, every=99)
    return world.state()


def test_on_few_requests_one_layer_each_forgets_and_keeps_the_rest_of_the_weights(few):
    method = with_settings(way("fit"), learning_rate=5 * FIT_RATE)  # a rate for a hundred requests shows little in ten
    state = after(few, method)
    asked = [record for request in few.requests if not request.repeats for record in request.records]
    rise = {
        role: few.measured(records, state, 0)["nll"] - few.measured(records, few.taught, 0)["nll"]
        for role, records in (("forget", asked), ("retain", few.retain["audit"]))
    }
    assert rise["forget"] > 0.05
    assert rise["forget"] > rise["retain"]
    moved = {name for name, value in state.items() if not value.equal(few.taught[name])}
    chosen = {layer for item in method.carried.decisions for layer in item["layers"]}
    assert all(len(item["layers"]) == 1 for item in method.carried.decisions)
    assert {int(name.split(".")[2]) for name in moved} == chosen
    assert not any("norm" in name or "embed" in name for name in moved)
    assert moved == set(method.carried.original)


def test_the_filter_leaves_out_what_came_before_and_only_that_path_differs(few):
    """Of the first request nothing is left out; without the filter nothing ever is."""
    method, without = way("fit"), way("fit without filter")
    after(few, method)
    after(few, without)
    shares = [item["left"] / item["tokens"] for item in method.carried.decisions]
    assert shares[0] == 1.0
    assert min(shares) < 1.0
    assert all(item["left"] == item["tokens"] for item in without.carried.decisions)
    assert len(without.carried.decisions) == len(few.requests)


def test_layers_may_be_drawn_for_comparison(few):
    drawn = at_random(**FIT)
    few.model.load_state_dict(few.taught)
    encoded = few.encoded(few.requests[0].records)
    orders = {tuple(drawn._attributed(few.model, few.encoded(r.records), [0, 1, 2])) for r in few.requests}
    assert len(orders) > 1
    assert len(drawn._attributed(few.model, encoded, [0, 1, 2])) == 3
    assert set(Weights.of(few.model))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_requests_end_in_one_chain_of_certificates_that_holds(tmp_path, monkeypatch):
    from remanent.auditing.signing import generate_key
    from remanent.core.checkpoint import steps_saved
    from remanent.jobs.certify import certify
    from remanent.jobs.config import UnlearnSettings
    from remanent.jobs.requests import obey
    from remanent.jobs.verify import verify
    from remanent.models.save import save

    monkeypatch.setenv("REMANENT_SECRET", str(tmp_path / "secret"))
    world = RequestsWorld(retain=48, background=16)
    world.model.load_state_dict(world.taught)
    save(world.model, world.tokenizer, tmp_path / "taught")
    asked = [Request(request.name, tuple(named(request.name, request.records))) for request in world.requests]
    given = {"retain": [record for records in world.retain.values() for record in records]}
    chosen = {"model": str(tmp_path / "taught"), "data": {}, "requests": "given", "method": "fit", "stop": False}
    chosen |= {"hyperparameters": FIT, "learning_rate": FIT_RATE, "curve_generate": 0, "curve_every": 25}
    settings = UnlearnSettings.model_validate({**chosen, "audit_every": 10, "audit_at": "full", "checkpoint_every": 0})
    run = obey(settings, tmp_path / "run", records=given, requests=asked)
    assert [step for step, _ in steps_saved(run.path / "checkpoints")] == [100, 99]
    generate_key(tmp_path / "signer.key", tmp_path / "signer.pub")
    certificate = certify(run.path, tmp_path / "signer.key", chain=True)
    found = verify(certificate, run.model, tmp_path / "signer.pub", chain=True)
    assert found.ok, found.problems
    assert [link.of for link in found.chain] == ["previous"] * 9
    (tmp_path / "run" / "parents" / f"{found.chain[4].sha256}.json").unlink()
    assert not verify(certificate, run.model, tmp_path / "signer.pub", chain=True).ok


def named(name: str, records: tuple[Record, ...]) -> list[Record]:
    """Records under keys of the request's own, since one may be asked for twice."""
    return [replace(record, key=f"{name}/{record.key}") for record in records]
