"""GU: what it wraps, what trains, and that AdamW's own steps leave the retain loss alone to first order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from remanent.core.batch import collate
from remanent.core.catalogue import build
from remanent.core.episode import Episode
from remanent.core.off_gradients import Recent
from remanent.core.optimizer_scales import step_scales
from remanent.core.update import Update
from remanent.core.weights import Weights
from remanent.errors import InputError
from remanent.unlearning import ce_u, gu, npo, simnpo


def begun(model, **options):
    return gu.method(**options).begin(model, Episode("one", "erase", {}))


def trained(model, method):
    return method.select.of(Weights.of(model))


@pytest.fixture
def batches(make_batch):
    return {"forget": make_batch(4, seed=1), "retain": make_batch(5, seed=2)}


def test_it_takes_losses_and_points_of_the_method_that_it_is_put_round():
    assert gu.method().objective == simnpo.method().objective
    assert gu.method(objective="npo").objective == npo.method().objective
    assert len(gu.method(objective="durable", **{"host.directions": 0}).places) == 2
    assert gu.method(objective="scrub").weights == {"forget": 0.125, "obey": 0.5, "retain": 1.0}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gu", "one of"),
        ("no-such", "one of"),
        ("ewc", "one of"),
        ("ssd", "an edit has no gradient"),
        ("retrain", "no forget gradient"),
        ("ofmu", "a rule of its own"),
        ("durable", "host.directions=0 leaves that out"),
        ("alphaedit-projection", "a rule of its own"),
        ("task-vector", "at the end"),
    ],
)
def test_what_has_no_gradient_to_project_is_refused_with_the_reason(name, reason):
    with pytest.raises(InputError, match=reason):
        gu.method(objective=name)


HOSTS = {
    "undial": {},
    "ce-u": {},
    "grad-ascent": {},
    "whp": {},
    "pdu": {"host.dual": 0.0, "host.dual_step": 0.0},  # whose constraint is a retain gradient too
    "rmu": {"host.layer": 1},
    "as-stranger": {"host.roundings": ""},
    "salun": {"host.share": 0.3, "host.loss": "grad-ascent"},
    "sure": {"host.threshold": 50.0, "host.loss": "grad-ascent"},
    "fit": {"host.algorithm": "random-labels"},
    "pga": {},
}


@pytest.mark.parametrize("name", HOSTS)
def test_what_is_stepped_besides_the_retain_gradient_is_orthogonal_to_it(name, tiny_llama, make_records, monkeypatch):
    """Round methods without a retain loss, with a mask, and with calls of their own."""
    kept, add = {}, Recent.add  # what is held of a gradient is rounded

    def seen(self, gradient, most):
        kept.update({key: part.flatten().clone() for key, part in gradient.items()})
        return add(self, gradient, most)

    monkeypatch.setattr(Recent, "add", seen)
    roles = ("forget", "retain", "stranger", "unseen")
    data = {role: make_records(4, seed=number) for number, role in enumerate(roles)}
    model = tiny_llama()
    made = gu.method(objective=name, directions=1, forget_weight=1.0, **HOSTS[name])
    method = made.begin(model, Episode("one", "erase", {role: data[role] for role in made.roles}))
    weights = trained(model, method)
    # A hidden state or a divergence that is held where it is has no gradient before the first step.
    update = Update(model, method, torch.optim.SGD(weights.values(), lr=0.1), steps=2)
    batches = {role: collate(data[role], range(4), 0) for role in method.roles}
    update(batches)
    update.gradients(batches)
    forget = {key: weights[key].grad.reshape(-1) - part for key, part in kept.items()}

    def product(one, other):
        return sum(float(one[key].double() @ other[key].double()) for key in kept)

    assert product(kept, kept) > 0
    assert product(forget, forget) > 0
    assert abs(product(forget, kept)) < 5e-4 * (product(forget, forget) * product(kept, kept)) ** 0.5
    if method.mask:
        assert all(not weights[key].grad[~mask].any() for key, mask in method.mask.items())
        assert any((~mask).any() for mask in method.mask.values())


def test_a_retain_loss_is_added_where_there_is_none(predicting, answers, taken):
    """Token means, each divided by its own tokens: CE-U leaves out the first token of each forget record."""
    objective = gu.method(objective="ce-u").objective
    retain = answers([1.0, 3.0], [2.0])
    assert taken(objective, retain=retain)["retain"].item() == pytest.approx(2.0)
    batch, _, predict = predicting([[0, 2]], [[4.0, 1.0, 1.0], [1.0, 0.0, -1.0]])
    own = ce_u.method().objective
    both = {"forget": batch, "retain": batch}
    assert torch.equal(objective.losses(both, predict)["forget"], own.losses({"forget": batch}, predict)["forget"])
    assert (objective.counted("forget", both), objective.counted("retain", both)) == (1, 2)
    assert isinstance(objective, type(own))
    assert gu.method(objective="ce-u").objective == objective
    assert gu.method(objective="npo").objective == npo.method().objective  # which has one


def test_the_other_methods_hyperparameters_are_given_and_checked_before_work():
    assert gu.method(objective="npo", **{"host.beta": 0.7}).objective.beta == 0.7
    assert build("gu", {"objective": "ce-u", "host.skip": 3}).objective.skip == 3
    for given, message in (
        ({"host.betta": 0.7}, "did you mean 'host.beta'"),
        ({"host.skip": 3}, "one of .*host.beta, host.delta"),  # simnpo has none
        ({"host.beta": "much"}, "gu.host.beta"),
        ({"objective": "npo", "host.beta": -1.0}, "beta"),
        ({"host.retain_weight": 3.0}, "gu's own retain_weight"),
        ({"objective": "pga", "host.align_weight": 3.0}, "gu's own forget_weight"),
    ):
        with pytest.raises(InputError, match=message):
            build("gu", given)


def test_what_the_other_method_carries_along_is_carried(tiny_llama, batches):
    """PDU's dual variable moves, is saved, and starts anew with each episode."""
    model = tiny_llama()
    made = gu.method(objective="pdu", **{"host.limit": 0.0, "host.dual": 1.0, "host.dual_warmup": 0.0})

    def dual(method):
        return method.state_dict()["host"]["dual"]

    method = made.begin(model, Episode("one", "erase", {}))
    update = Update(model, method, torch.optim.SGD(trained(model, method).values(), lr=0.1), steps=2)
    first = update(batches)
    assert dual(method) == pytest.approx(1.0 + 5.0 * first["retain@full"])
    other = made.begin(model, Episode("two", "erase", {}))
    assert dual(other) == dual(made) == 1.0
    other.load_state_dict(method.state_dict())
    assert dual(other) == dual(method)
    assert other.objective.dual.value == dual(method)


def test_a_method_that_says_what_trains_keeps_it(tiny_llama):
    method = gu.method(objective="rmu", **{"host.layer": -2})
    model = tiny_llama()
    assert set(trained(model, method.begin(model, Episode("one", "erase", {})))) == {
        "model.layers.0.mlp.down_proj.weight"
    }


def test_what_comes_before_the_first_update_is_the_other_methods():
    sizes = {"forget": 10, "retain": 20}
    assert gu.method().passes_beforehand(sizes) == 0
    assert gu.method(objective="salun").passes_beforehand(sizes) == 10
    # WHP's reinforced model takes batches as large as those of the run: 16, so here of all 10, 3 times.
    assert gu.method(objective="whp").passes_beforehand(sizes) == 30


def test_the_last_layers_down_projections_train(tiny_llama):
    model = tiny_llama()
    assert set(trained(model, begun(model, layers=1))) == {"model.layers.1.mlp.down_proj.weight"}
    assert len(trained(model, begun(model))) == 2
    mine = replace(gu.method(), select=replace(gu.method().select, names=("*q_proj*",)))
    assert all("q_proj" in name for name in trained(model, mine.begin(model, Episode("one", "erase", {}))))
    with pytest.raises(InputError, match="layers"):
        gu.method(layers=0)


def test_an_episode_starts_with_no_gradient_of_another(tiny_llama, batches):
    model = tiny_llama()
    method = begun(model)
    Update(model, method, torch.optim.SGD(trained(model, method).values(), lr=0.1), steps=1)(batches)
    assert method.state_dict()["order"]
    assert not method.begin(model, Episode("two", "erase", {})).state_dict()["order"]


def test_a_step_of_adamws_scales_changes_the_retain_loss_to_second_order(tiny_llama, batches):
    """In the metric of the optimizer; in the plain one it does so to first order."""

    def change(metric, size):
        model = tiny_llama(dtype=torch.float64)
        method = begun(model, objective="grad-diff")
        method = replace(method, combine=replace(method.projection, count=1, metric=metric))
        weights = trained(model, method)
        optimizer = torch.optim.AdamW(weights.values(), lr=1e-2, betas=(0.0, 0.999), weight_decay=0.0)
        update = Update(model, method, optimizer, steps=9)
        for _ in range(3):
            update(batches)
        scales = step_scales(optimizer, weights)
        update.gradients(batches)
        recent = method.projection.recent
        before = loss(model, batches["retain"])
        with torch.no_grad():
            for name, weight in weights.items():
                forget = weight.grad - recent.slots[name][recent.order[0]].reshape(weight.shape)
                weight -= size * scales[name] * forget
        return abs(loss(model, batches["retain"]) - before)

    ours = [change(True, size) for size in (1e-3, 5e-4)]
    assert ours[0] / ours[1] == pytest.approx(4, rel=0.1)
    plain = [change(False, size) for size in (1e-3, 5e-4)]
    assert plain[0] / plain[1] == pytest.approx(2, rel=0.1)
    assert ours[0] < 0.2 * plain[0]


@torch.no_grad()
def loss(model, batch):
    """Mean NLL in float64, which the scores of a model are not."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
    labels = batch.labels[:, 1:]
    asked = labels != -100
    return -float(logits[asked].log_softmax(dim=-1).gather(1, labels[asked][:, None]).mean())
