from __future__ import annotations

import pytest

from .sweep_world import SweepWorld


@pytest.fixture(scope="session")
def sweep_world(tmp_path_factory):
    """With a secret of its own, which processes that a test starts inherit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMANENT_SECRET", str(tmp_path_factory.mktemp("secret") / "secret"))
        yield SweepWorld(tmp_path_factory.mktemp("sweep-world"))
