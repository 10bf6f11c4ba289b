"""The page in a real browser: it renders quietly, asks nobody for anything, and fits a phone."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
FLAGS = re.split(
    " ",
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps --disable-extensions --disable-dev-shm-usage "
    "--enable-logging=stderr --hide-scrollbars",
)
HARNESS = """<!doctype html><meta charset=utf-8><link rel=icon href="data:,"><body>
<iframe id=f style="width:WIDTHpx;height:2000px;border:0" src="report.html"></iframe><pre id=out></pre><script>
document.getElementById('f').onload = event => {
  const page = event.target.contentDocument, root = page.documentElement;
  const measure = () => ({
    width: root.clientWidth, scrolls: root.scrollWidth, height: root.scrollHeight,
    cut: [...page.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg, .unseen')
      && e.getBoundingClientRect().right > root.clientWidth + 1).map(e => e.tagName),
  });
  const folded = measure();
  page.querySelectorAll('details').forEach(d => { d.open = true; });
  document.getElementById('out').textContent = JSON.stringify({
    folded, unfolded: measure(), title: page.title,
    plots: [...page.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height),
    paper: getComputedStyle(page.body).backgroundColor,
  });
};</script>"""


@pytest.fixture(scope="module")
def site(two_runs: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """A server that is the browser's proxy as well, so that it sees whatever the page asks for."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "report.html").write_text(two_runs, encoding="utf-8")
    for width in (380, 1200):
        (folder / f"{width}.html").write_text(HARNESS.replace("WIDTH", str(width)), encoding="utf-8")
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            asked.append(self.path)
            self.path = re.sub(r"^http://[^/]+", "", self.path)
            super().do_GET()

        def do_CONNECT(self) -> None:
            asked.append(self.path)
            self.send_error(502)

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def browse(url: str, tmp_path: Path, *flags: str) -> tuple[str, str]:
    assert CHROMIUM is not None
    proxy = url.rsplit("/", 1)[0]
    command = [
        CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--proxy-server={proxy}",
        "--proxy-bypass-list=<-loopback>", *flags, url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout, done.stderr


def measured(dom: str) -> dict[str, Any]:
    found = re.search(r'<pre id="out">(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[-500:]
    data = json.loads(found[1].replace("&gt;", ">").replace("&amp;", "&"))
    assert isinstance(data, dict)
    return data


@pytest.mark.parametrize(("width", "scheme", "paper"), [(380, 0, "rgb(23, 22, 21)"), (1200, 1, "rgb(253, 252, 250)")])
def test_it_fits_and_is_quiet(site: tuple[str, list[str]], tmp_path: Path, width: int, scheme: int, paper: str) -> None:
    address, asked = site
    asked.clear()
    scheme_flag = f"--blink-settings=preferredColorScheme={scheme}"
    dom, log = browse(f"{address}/{width}.html", tmp_path, "--window-size=1300,2200", scheme_flag, "--dump-dom")
    page = measured(dom)
    assert page["title"] == "Two runs"
    assert page["paper"] == paper
    for state in ("folded", "unfolded"):
        assert page[state]["scrolls"] == page[state]["width"] == width
        assert page[state]["cut"] == []
    assert page["unfolded"]["height"] > page["folded"]["height"] + 500
    assert len(page["plots"]) == 8  # two of NLL, frontier, retention, and two of training for each run
    assert min(page["plots"]) > 100
    assert "CONSOLE" not in log, log
    ours = {re.sub(r"^http://[^/]+", "", path) for path in asked if path.startswith((address, "/"))}
    assert ours == {f"/{width}.html", "/report.html"}
    # Chromium asks its maker for things of its own at times; no page of ours names these hosts.
    other = [path for path in asked if not path.startswith((address, "/"))]
    assert not [path for path in other if "google" not in path and "gvt" not in path]


def test_it_prints_with_everything_unfolded(site: tuple[str, list[str]], tmp_path: Path) -> None:
    address, _ = site
    target = tmp_path / "report.pdf"
    browse(f"{address}/report.html", tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={target}")
    raw = target.read_bytes()
    assert raw.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", raw)) >= 6
