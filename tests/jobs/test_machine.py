"""The memory that a job has: what is free, or what a container leaves of it."""

from __future__ import annotations

import pytest

from remanent.jobs import machine as module

FREE = 8000 * 1024


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Writes files of a made-up system, which has that much memory free."""

    def write(**files):
        for name, text in {"meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n", **files}.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    for constant, name in (("_MEMORY", "meminfo"), ("_OWN_GROUPS", "own"), ("_GROUPS", "groups")):
        monkeypatch.setattr(module, constant, tmp_path / name)
    return write


def group(folder, limit, used, cache=0):
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 1\ninactive_file {cache}\n",
    }


def test_what_is_free_where_there_is_no_limit(system):
    system()
    assert module._memory() == FREE
    system(own="0::/job\n", **group("groups/job", "max", 5))
    assert module._memory() == FREE


def test_what_a_limit_leaves_without_what_can_be_given_back(system):
    system(own="0::/job\n", **group("groups/job", 3_000_000, 1_000_000, cache=400_000))
    assert module._memory() == 2_400_000


def test_the_limit_of_a_group_round_it_holds_too(system):
    inner = group("groups/pod/job", 3_000_000, 1_000_000)
    system(own="0::/pod/job\n", **inner, **group("groups/pod", 2_000_000, 1_500_000))
    assert module._memory() == 500_000


def test_more_than_is_free_there_is_not(system):
    system(own="0::/job\n", **group("groups/job", 2 * FREE, 0))
    assert module._memory() == FREE


def test_the_first_version_of_groups(system):
    files = {"limit_in_bytes": 3_000_000, "usage_in_bytes": 1_000_000}
    told = {f"groups/memory/job/memory.{name}": f"{value}\n" for name, value in files.items()}
    stat = {"groups/memory/job/memory.stat": "total_inactive_file 7\n"}
    system(own="5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n", **told, **stat)
    assert module._memory() == 2_000_007
