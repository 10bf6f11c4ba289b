"""The report of sharpness: one HTML page and a PNG of each plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from remanent.core.files import write_atomic
from remanent.report.html import environment
from remanent.report.sharpness_charts import charts
from remanent.report.sharpness_view import columns, lines
from remanent.report.svg import to_png, to_svg

CAPTIONS = {
    "definitions": "Growth of the mean loss at random points (average) and at the worst point found (worst) within the "
    "radius that ends the name. Compare marks on one line only: radii differ in kind.",
    "errors": "Growth of the share of tokens that are not the most likely, at the points of the plot above.",
    "criticality": "The smallest a at which the layer alone at (1 - a) before + a now loses no more than 1% of the "
    "tokens answered rightly: 0 can go back whole, 1 not at all.",
    "neurons": "Share of values above 0 that an activation gets, over the records' own positions.",
    "landscape": "Each row of each matrix goes a random way, as far as it is long. Band: the interval over batches.",
    "path": "Every weight on the straight line between both models. A barrier rises above the line from end to end.",
    "layers": "Only the layer's weights are moved at random, in proportion to each. Layers do not add up to the whole.",
    "stragglers": "Share of tokens right that is gained when one layer alone is put back to the model before. These "
    "records chose the order: read it on others.",
    "spectrum": "On a log scale. Most eigenvalues lie at 0; those far out are the steep directions.",
}
_PLANE = "Contours of the mean loss, in nats; the cross is the model."


def write_report(found: Mapping[str, Any], out: Path) -> Path:
    """Write report.html and a PNG of each plot into a folder.

    Args:
        found: what `remanent sharpness` writes as sharpness.json.
        out: the folder.
    """
    plots = []
    for name, (figure, title, description) in charts(found).items():
        svg = Markup(to_svg(figure, name, title, description))
        plots.append({"svg": svg, "title": title, "caption": CAPTIONS.get(name, _PLANE)})
        write_atomic(out / f"{name}.png", to_png(figure))
    page = (
        environment()
        .get_template("sharpness.html.j2")
        .render(
            title=f"Sharpness of {found['model']}",
            found=found,
            columns=columns(found),
            lines=list(lines(found)),
            plots=plots,
        )
    )
    write_atomic(out / "report.html", page)
    return out / "report.html"
