"""The site builds in strict mode, finds new pages by itself, and needs no network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from remanent.core.catalogue import systems, unlearners

from .pages import ROOT, text_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OF_THEIR_OWN = ("optim", "sharpness", "data", "designs")  # rooms whose pages have a folder of their name
_LOADED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=\"?([^\"\s>]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_system_is_in_the_navigation(site):
    home = text_of(site / "index.html")
    for name, entry in systems().items():
        room = entry.module.split(".")[1]
        folder = room if room in OF_THEIR_OWN else {"auditing": "audits"}.get(room, "methods")
        assert f'href="{folder}/{name}.html"' in home, name


def test_examples_and_files_beside_the_pages_are_pages(site):
    for example in ROOT.glob("examples/*.py"):
        assert "import" in text_of(site / "examples" / f"{example.stem}.html")
    assert 'href="examples/keep_what_it_knew.html"' in text_of(site / "keep.html")
    assert 'href="contributing.html"' in text_of(site / "index.html")
    assert 'href="add-a-method.html"' in text_of(site / "contributing.html")


def test_the_reference_is_made_from_docstrings(site):
    for page, anchors in {
        "api": ["remanent.api.unlearn", "remanent.api.audit", "remanent.api.certify", "remanent.api.verify"],
        "displacement": ["remanent.core.displacement.Rounding", "remanent.core.displacement.gradient_at"],
        "method": ["remanent.core.method.Method", "remanent.core.method.Objective"],
        "quantization": ["remanent.core.quantization.round_to"],
        "auditing": [
            "remanent.auditing.audit.audit",
            "remanent.auditing.judge.judge",
            "remanent.auditing.verify.verify",
        ],
        "optim": ["remanent.optim.SAM"],
        "sharpness": ["remanent.sharpness.modern_sharpness.Definition", "remanent.sharpness.surface.LossSurface"],
        "continual": ["remanent.continual.ewc.EWC"],
        "hf": ["remanent.hf.trainer.MethodTrainer", "remanent.hf.callback.RemanentCallback"],
    }.items():
        text = text_of(site / "reference" / f"{page}.html")
        assert [name for name in anchors if f'id="{name}"' not in text] == []


def test_nothing_is_fetched(site):
    for page in site.rglob("*.html"):
        assert [address for address in _LOADED.findall(text_of(page)) if "//" in address] == [], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", text_of(style)), style.name


def test_marks_of_the_tests_are_not_shown(site):
    page = text_of(site / "add-a-method.html")
    assert 'class="filename">inverted_hinge.py' in page
    assert "file: inverted_hinge.py" not in page
    assert "!-- test" not in text_of(site / "keep.html")


def test_the_table_of_methods_holds_each_once():
    table = text_of(ROOT / "docs" / "methods.md").split("\n## ")[0]
    rows = re.findall(r"^\| \[([\w-]+)\]\(methods/([\w-]+)\.md\)", table, re.MULTILINE)
    assert all(name == page for name, page in rows)
    assert sorted(name for name, _ in rows) == sorted(unlearners())


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_search_works_on_files_without_a_network(site, tmp_path):
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    offline = ["--host-resolver-rules=MAP * 0.0.0.0", "--virtual-time-budget=10000", "--enable-logging=stderr"]
    address = f"{(site / 'index.html').as_uri()}?q=nf4"
    command = [CHROMIUM, *options, *offline, "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert re.search(r"[1-9]\d* matching documents", done.stdout)
    assert "Uncaught" not in done.stderr
