"""The tutorial's two files are all that a method takes: what the suite asks of every method holds for it."""

from __future__ import annotations

import os
import subprocess
import sys

from .pages import tutorial_files, with_the_tutorials_method

OWN = "tests/reproductions/test_inverted_hinge.py"
# What the suite asks of every method, but of its page: that is in tests/docs/test_site.py.
CHECKS = [
    "tests/core/test_catalogue.py",
    "tests/core/test_taxonomy.py",
    "tests/contracts/test_contracts.py",
    "tests/cli/test_catalogue.py",
    "tests/jobs/test_unlearn.py",
    "tests/jobs/test_hyperparameters.py",
]
SELECTED = "inverted or test_every_file or test_each_class or test_methods_with or test_systems_by"
# Of those, the ones that must have been there, so that a selection of nothing is no success.
NAMED = [
    "test_it_keeps_more_than_ascent[2]",
    "test_a_record_is_complete[inverted-hinge]",
    "test_every_file_with_a_method_or_an_edit_declares_its_system",
    "test_every_method_that_forgets_has_its_leaf[inverted-hinge]",
    "test_each_class_has_a_method_and_each_method_one_place",
    "test_cut_off_and_resumed_it_ends_the_same_bit_for_bit[lora-inverted-hinge]",
    "test_methods_with_hyperparameters_and_defaults",
    "test_every_methods_resolved_settings_are_settings[inverted-hinge]",
]


def test_there_are_two_files():
    assert list(tutorial_files()) == ["src/remanent/unlearning/inverted_hinge.py", OWN]


def test_nothing_else_is_needed(tmp_path):
    repository = with_the_tutorials_method(tmp_path)
    command = [sys.executable, "-m", "pytest", "-v", "-m", "not slow", "-p", "no:cacheprovider", "-k", SELECTED]
    environment = {**os.environ, "PYTHONPATH": str(repository / "src")}
    done = subprocess.run(
        [*command, OWN, *CHECKS], cwd=repository, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [name for name in NAMED if f"::{name} PASSED" not in done.stdout] == []
