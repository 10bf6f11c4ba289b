from __future__ import annotations

from remanent.core.sampling import Sampler, seed_of


def test_every_epoch_holds_every_record_once_across_batches_that_cross_its_edge():
    sampler = Sampler(10, 4, seed=0, role="forget")
    drawn = [index for step in range(1, 11) for index in sampler.batch(step)]
    epochs = [drawn[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4  # each in an order of its own


def test_a_batch_is_a_function_of_the_step_alone():
    forwards = [Sampler(7, 3, 1, "x").batch(step) for step in range(1, 20)]
    one = Sampler(7, 3, 1, "x")
    backwards = [one.batch(step) for step in range(19, 0, -1)]
    assert forwards == backwards[::-1]


def test_seed_and_role_decide_the_order():
    orders = [Sampler(50, 50, seed, role).batch(1) for seed, role in ((0, "a"), (1, "a"), (0, "b"))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_a_batch_is_no_larger_than_the_set():
    assert sorted(Sampler(3, 8, 0, "x").batch(1)) == [0, 1, 2]


def test_seeds_are_in_range_and_parts_do_not_run_together():
    assert all(0 <= seed_of(number, "dropout") < 2**63 for number in range(100))
    assert seed_of(1, 23) != seed_of(12, 3)
    assert seed_of(0, "a") == seed_of(0, "a")
