"""From a matplotlib figure to SVG for a page: the page's colours and fonts, ids of its own, nothing from outside."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from importlib.resources import files

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex, to_rgba_array
from matplotlib.figure import Figure

# What is drawn in such a colour is shown in the page's own: matplotlib knows no CSS variables, so each stands for one.
ROLES = {
    "ink": "#010101",
    "soft": "#010102",
    "rule": "#010103",
    "paper": "#010104",
    "forget": "#010105",
    "paraphrased": "#010106",
    "retain": "#010107",
    "control": "#010108",
    "before": "#010109",
    "run-1": "#01010a",
    "run-2": "#01010b",
    "run-3": "#01010c",
    "run-4": "#01010d",
    "run-5": "#01010e",
    "run-6": "#01010f",
}
_VARIABLES = {colour: f"var(--{role})" for role, colour in ROLES.items()}
_COLOUR = re.compile("|".join(_VARIABLES))
_FAMILY = re.compile(r"(font:\s[^;]*?\d(?:\.\d+)?px)\s[^;]*|font-family:[^;]*")
_REFERENCE = re.compile(r"url\(#")


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an SVG element to stand in a page.

    Args:
        name: prefix of its ids, unique in the page; letters, digits and hyphens.
        title: its accessible name.
        description: what it shows, in a sentence, for those who do not see it.
    """
    written = io.StringIO()
    with (
        warnings.catch_warnings(),
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "svg.id": None}),
    ):
        warnings.filterwarnings("ignore", message="Glyph")  # the page's fonts draw the text, not matplotlib's
        FigureCanvasSVG(figure).print_figure(written, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(written.getvalue())
    for element in root.iter():  # in a page, tags and attributes (xlink:href) have no namespace
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: _value(key, value, name) for key, value in element.attrib.items()}
        for unwanted in [child for child in element if child.tag.endswith(("}metadata", "}style"))]:
            element.remove(unwanted)
    width, height = root.attrib.pop("width"), root.attrib.pop("height")
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-description"}
    root.attrib["style"] = f"--width:{width};--height:{height}"
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        label = ElementTree.Element(tag, {"id": f"{name}-{'title' if tag == 'title' else 'description'}"})
        label.text = text
        root.insert(place, label)
    return ElementTree.tostring(root, encoding="unicode")


def to_png(figure: Figure, dots_per_inch: int = 160) -> bytes:
    """The figure as a PNG in the page's light colours. The figure itself is recoloured: write its SVG first."""
    light = _light()
    for artist in figure.findobj():
        for part in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
            getter, setter = (getattr(artist, f"{kind}_{part}", None) for kind in ("get", "set"))
            if getter is None or setter is None:
                continue
            found = getter()
            if isinstance(found, str) and found == "auto":
                continue
            shown = [light.get(to_hex(colour), None) for colour in to_rgba_array(found)]
            if shown and all(colour is not None for colour in shown):
                setter(shown if len(shown) > 1 else shown[0])
    figure.set_facecolor(light[ROLES["paper"]])
    written = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(written, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return written.getvalue()


def _light() -> dict[str, str]:
    """Stand-in colour -> the page's own in the light scheme."""
    style = (files("remanent.report") / "templates" / "report.css").read_text(encoding="utf-8")
    known = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", style.split("@media")[0]))
    return {colour: known[role] for role, colour in ROLES.items()}


def _value(key: str, value: str, name: str) -> str:
    plain = key.rpartition("}")[2]
    if plain == "id":
        return f"{name}-{value}"
    if plain == "href":
        return value.replace("#", f"#{name}-", 1)
    if plain in ("style", "clip-path"):
        value = _REFERENCE.sub(f"url(#{name}-", value)
        value = _FAMILY.sub(lambda match: f"{match[1]} var(--sans)" if match[1] else "font-family:var(--sans)", value)
        return _COLOUR.sub(lambda match: _VARIABLES[match[0]], value)
    return value
