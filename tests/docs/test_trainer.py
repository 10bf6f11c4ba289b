"""The page's snippets run one after the other, as the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "trainer.md"


def test_snippets_run(tmp_path):
    snippets = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    script = tmp_path / "page.py"
    script.write_text("\n".join(snippets), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "loop: 4 updates" in done.stdout
    assert done.stdout.count("own loop:") == 4
    assert re.search(r"Trainer: [1-4] updates, the weights are those of step [1-4]", done.stdout)
    assert re.search(r"callback: [23] evaluations", done.stdout)
