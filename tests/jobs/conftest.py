from __future__ import annotations

import pytest

from .people import model_folder
from .sweep_world import SweepWorld


@pytest.fixture(scope="session")
def sweep_world(tmp_path_factory):
    """With a secret of its own, which processes that a test starts inherit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMANENT_SECRET", str(tmp_path_factory.mktemp("secret") / "secret"))
        yield SweepWorld(tmp_path_factory.mktemp("sweep-world"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that reads what `people` ask of it."""
    return model_folder(tmp_path_factory)


@pytest.fixture
def own_places(tmp_path, monkeypatch):
    """A secret and a cache of the test's own."""
    monkeypatch.setenv("REMANENT_SECRET", str(tmp_path / "secret"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
