"""The page of the tree says what the methods' records say."""

from __future__ import annotations

from remanent.jobs.systems import taxonomy

from .pages import METHODS, ROOT, text_of


def test_the_page_is_the_tree():
    text = text_of(ROOT / "docs" / "taxonomy.md")
    for item in taxonomy():
        part = text.split(f"## {item['title']}\n")[1].split("\n## ")[0]
        assert f"Removes {item['removes']}." in part
        for leaf in item["leaves"]:
            listed = ", ".join(f"[{name}](methods/{name}.md)" for name in leaf["methods"]) or "none"
            row = f"| {leaf['leaf']} | {leaf['text']} | {listed} |"
            assert row in part, f"docs/taxonomy.md needs the row {row}"
            assert all((METHODS / f"{name}.md").is_file() for name in leaf["methods"])
