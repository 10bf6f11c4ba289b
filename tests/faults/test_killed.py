"""kill -9 at random points of training and saving: nothing unreadable, and the same final weights bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_random_points_all_is_readable_and_ends_the_same(kills, tmp_path):
    script = Path(__file__).with_name("killed_everywhere.py")
    command = [sys.executable, str(script), str(tmp_path), str(kills), "11"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["unreadable"] == []
    assert found["killed"] == kills
    assert 0 < found["outside"] < kills  # from outside and from within
    assert {end.get("digest", str(end)) for end in found["ends"]} == {found["alone"]["digest"]}
    assert all(end["warnings"] == [] for end in found["ends"])  # no checkpoint was passed over
