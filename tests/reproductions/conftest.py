"""Tiny models that are trained once for all reproductions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from .recovery import snapped_of
from .world import State, World


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are slower on several threads, and their figures depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def base(world: World) -> State:
    """Knows the language of the records from authors that are in no other set."""
    return world.base()


@pytest.fixture(scope="session")
def taught(world: World, base: State) -> State:
    """The base, taught the authors to be forgotten and those to be kept."""
    return world.teach(base, "taught")


@pytest.fixture(scope="session")
def retrained(world: World, base: State) -> State:
    """The base, taught by the same recipe the authors to be kept alone."""
    return world.teach(base, "retain")


@pytest.fixture(scope="session")
def retrained_again(world: World, base: State) -> State:
    """The same with another seed: what a retrained model differs from a retrained one by."""
    return world.teach(base, "retain", seed=1)


@pytest.fixture(scope="session")
def snapped(world: World, base: State) -> State:
    """The base, taught at its rounded weights, and put on their grid."""
    return snapped_of(world, base)
