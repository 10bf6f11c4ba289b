"""The page of a queue of deletion requests that was not audited: its curve, each request, and what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from remanent.report.charts import requests_chart
from remanent.report.html import environment
from remanent.report.muse import MuseTable


@dataclass(frozen=True)
class QueueView:
    """What lies in the folder of a run with requests.

    Args:
        name: of the folder.
        rows: the lines of requests.jsonl.
        curve: curve.json; {} where none is there yet.
        information: the run's settings, and its manifest where it ended.
        audits: how many audits of earlier models lie in audits/.
        muse: MUSE's figures of these; () where they hold none.
    """

    name: str
    rows: tuple[Mapping[str, Any], ...]
    curve: Mapping[str, Any] = field(default_factory=dict)
    information: Mapping[str, Any] = field(default_factory=dict)
    audits: int = 0
    muse: tuple[MuseTable, ...] = ()

    @property
    def total(self) -> int | None:
        """Requests in all, obeyed or not; None where that is not known yet."""
        return len(self.rows) if self.finished else self.curve.get("requests")

    @property
    def finished(self) -> bool:
        """Whether all are obeyed and the model is saved, as the manifest says at the end."""
        return bool(self.information.get("requests") == len(self.rows))


def render(view: QueueView, title: str) -> str:
    """The page as complete HTML."""
    plot = requests_chart(view.curve, "queue-requests-plot")
    points = view.curve.get("rows") or [None]
    template = environment().get_template("queue.html.j2")
    return template.render(title=title, view=view, plot=Markup(plot) if plot else None, last=points[-1])
