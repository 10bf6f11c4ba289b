"""`python -m benchmarks --out`: what was found is kept, and a run that was cut off goes on."""

from __future__ import annotations

import sys

import pytest

from benchmarks import __main__ as table
from benchmarks.measure import Row


def test_a_run_that_was_cut_off_goes_on_with_the_next_part(tmp_path, monkeypatch):
    file, ran = tmp_path / "results.md", []

    def part(name, value, fails=False):
        def rows(model, records, tiny, runs):
            ran.append(name)
            if fails:
                raise KeyboardInterrupt
            return [Row(name, value, value, value, 1.0, "a peer")]

        return rows

    monkeypatch.setattr(sys, "argv", ["benchmarks", "--tiny", "--runs", "1", "--out", str(file)])
    monkeypatch.setattr(table, "PARTS", {"first": part("first", 0.25), "second": part("second", 2.0, fails=True)})
    with pytest.raises(KeyboardInterrupt):
        table.main()
    assert not file.exists()
    monkeypatch.setattr(table, "PARTS", {"first": part("first", 0.5), "second": part("second", 2.0)})
    assert table.main() == 1  # the second breaks its bound
    assert ran == ["first", "second", "second"]
    text = file.read_text()
    assert "| first | 0.25 |" in text
    assert "| second | 2.00 **broken** |" in text
    assert [item.name for item in tmp_path.iterdir()] == ["results.md"]


def test_rows_of_another_kind_of_run_are_not_taken(tmp_path, monkeypatch):
    file, ran = tmp_path / "results.md", []

    def rows(model, records, tiny, runs):
        ran.append(runs)
        if len(ran) == 1:
            return [Row("first", 0.25, 0.25, 0.25, 1.0, "a peer")]
        return []

    def cut_off(model, records, tiny, runs):
        raise KeyboardInterrupt

    monkeypatch.setattr(table, "PARTS", {"first": rows, "second": cut_off})
    for runs in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["benchmarks", "--tiny", "--runs", runs, "--out", str(file)])
        with pytest.raises(KeyboardInterrupt):
            table.main()
    assert ran == [1, 2]


def test_a_peer_that_is_not_installed_is_named_under_the_table(tmp_path, monkeypatch, capsys):
    """Also where its part was measured in the run that was cut off."""
    file = tmp_path / "results.md"

    def rows(model, records, tiny, runs):
        return [Row("first", 0.25, 0.25, 0.25, 1.0, "a peer")]

    def cut_off(model, records, tiny, runs):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["benchmarks", "--tiny", "--runs", "1", "--out", str(file)])
    monkeypatch.setattr(table, "PARTS", {"first": rows, "second": cut_off})
    monkeypatch.setattr(table, "PEERS", {"first": "no_such_peer", "second": "torch"})
    with pytest.raises(KeyboardInterrupt):
        table.main()
    monkeypatch.setattr(table, "PARTS", {"first": rows, "second": rows})
    assert table.main() == 0
    assert capsys.readouterr().out == file.read_text() + "\n"
    assert file.read_text().endswith("| a peer |\n\nnot measured: no_such_peer is not installed (make peers)\n")
