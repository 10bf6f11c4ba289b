"""The site builds in strict mode, finds or makes every page by itself, and needs no network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html import unescape

import pytest

from remanent.core.catalogue import systems, unlearners
from remanent.jobs.systems import taxonomy

from .pages import METHODS, ROOT, text_of, with_the_tutorials_method

MADE = "inverted-hinge"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OF_THEIR_OWN = ("optim", "sharpness", "data", "designs")  # rooms whose pages have a folder of their name
_LOADED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=\"?([^\"\s>]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, with the method of the tutorial, which has no page written by hand."""
    repository = with_the_tutorials_method(tmp_path_factory.mktemp("repository"))
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(repository / "src")}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return repository / "site"


def test_every_system_is_in_the_navigation(site):
    home = text_of(site / "index.html")
    for name, entry in systems().items():
        room = entry.module.split(".")[1]
        folder = room if room in OF_THEIR_OWN else {"auditing": "audits"}.get(room, "methods")
        assert f'href="{folder}/{name}.html"' in home, name
    assert f'href="methods/{MADE}.html"' in home


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
    assert 'class="filename">src/remanent/unlearning/inverted_hinge.py' in page
    assert "file: src/" not in page
    assert "!-- test" not in text_of(site / "keep.html")


def rows_of(page, *tables):
    """The rows of those tables of a page, counted from 0, each a list of cells in plain words."""
    found = [re.split(r"</tr>", table) for table in re.findall(r"<tbody>(.*?)</tbody>", text_of(page), re.DOTALL)]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for number in tables for row in found[number]]
    return [[plain(cell) for cell in row] for row in cells if row]


def plain(html):
    return unescape(re.sub(r"<[^>]+>", "", html)).strip()


def test_the_table_of_methods_holds_each_once(site):
    rows = rows_of(site / "methods.html", 0)
    assert sorted(row[0].removesuffix(" (default)") for row in rows) == sorted([*unlearners(), MADE])
    assert rows[-1] == [MADE, "Inverted hinge loss: the answer's token below the likeliest other", "yes", "full", "2"]
    links = re.findall(r'<td><a href="methods/([\w-]+)\.html">([\w-]+)</a>', text_of(site / "methods.html"))
    assert sorted(name for page, name in links if name == page) == sorted([*unlearners(), MADE])


def test_the_tree_holds_every_leaf_with_its_methods(site):
    page = site / "taxonomy.html"
    leaves = {leaf["leaf"]: leaf for item in taxonomy() for leaf in item["leaves"]}
    leaves["gradient-ascent"]["methods"] = sorted([*leaves["gradient-ascent"]["methods"], MADE])
    rows = rows_of(page, *range(len(taxonomy())))
    assert rows == [[name, leaf["text"], ", ".join(leaf["methods"]) or "none"] for name, leaf in leaves.items()]
    for item in taxonomy():
        assert f"<p>Removes {item['removes']}.</p>" in text_of(page)
    for name in [*unlearners(), MADE]:
        assert f'<a href="methods/{name}.html">{name}</a>' in text_of(page)


def test_the_page_of_a_method_is_made_where_none_is_written(site):
    assert not (METHODS / f"{MADE}.md").exists()
    page = site / "methods" / f"{MADE}.html"
    text = text_of(page).split("<article")[1].split("</article>")[0]
    assert [plain(title).removesuffix("¶") for title in re.findall(r"<h2[^>]*>(.*?)</h2>", text)] == [
        *("Formula", "Where it comes from", "What it needs", "Defaults", "What differs from the paper", "In Python")
    ]
    words = " ".join(plain(text).split())
    for part in (
        "Inverted hinge loss: the answer's token is pushed below the likeliest of the others.",
        "src/remanent/unlearning/inverted_hinge.py",
        "L_f = mean over forget tokens of 1 + p(answer) - max over other tokens of p",
        "arXiv 2408.06621, 2024. tests/reproductions/test_inverted_hinge.py tests its effect.",
        "Needs: forget, retain. Runs on: full, lora, lora-nf4. Batch passes per update: 2, at: full.",
        "Its record notes nothing.",
        "Cha et al., arXiv 2408.06621, where the margin is 1.",  # the class's own docstring
    ):
        assert part in words
    assert 'href="https://arxiv.org/abs/2408.06621"' in text
    assert rows_of(page, 0) == [
        ["margin", "1", "the constant of the hinge."],
        ["forget_weight", "1", "gamma."],
        ["retain_weight", "1", "alpha."],
    ]
    assert rows_of(page, 1) == [
        ["learning_rate", "1e-05"],
        ["epochs", "5"],
        ["batch_size", "32"],
        ["schedule", "linear"],
        ["warmup", "0.1"],
        ["weight_decay", "0.01"],
        ["max_grad_norm", "1"],
    ]


def test_a_page_that_is_written_stays_as_it_is(site):
    for name in (page.stem for page in METHODS.glob("*.md")):
        assert "This page is made from the file itself" not in text_of(site / "methods" / f"{name}.html"), name


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_search_works_on_files_without_a_network(site, tmp_path):
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    offline = ["--host-resolver-rules=MAP * 0.0.0.0", "--virtual-time-budget=10000", "--enable-logging=stderr"]
    address = f"{(site / 'index.html').as_uri()}?q=nf4"
    command = [CHROMIUM, *options, *offline, "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert re.search(r"[1-9]\d* matching documents", done.stdout)
    assert "Uncaught" not in done.stderr
