"""What is drawn with matplotlib -> an <svg> element that may stand inside a page with a strict policy.

The page's style sheet gives the colours and the font, so that one plot serves light, dark and print; no plot needs a script.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from matplotlib import style
from matplotlib.figure import Figure

#: What matplotlib draws with, and what the page makes of it.
INK, GRID, GOOD, BAD, OTHER = "#000001", "#000002", "#000003", "#000004", "#000005"
_PAINT = {INK: "currentColor", GRID: "var(--grid)", GOOD: "var(--good)", BAD: "var(--bad)", OTHER: "var(--other)"}
_STYLE: dict[Any, Any] = {  # matplotlib's stubs name the keys, otherwise in each version
    "svg.fonttype": "none",
    "svg.hashsalt": "needle",
    "font.size": 9,  # report.css has it too
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "legend.frameon": False,
}
#: CSS in matplotlib's style attributes that is also valid as an attribute: the page's policy forbids style attributes.
_ATTRIBUTES = {"fill", "fill-opacity", "opacity", "stroke", "stroke-dasharray", "stroke-opacity", "stroke-width"}
_ATTRIBUTES |= {"stroke-linecap", "stroke-linejoin", "text-anchor"}
_WIDTH, _HEIGHT = 4.6, 3.0  # inches; the page scales them


def svg_element(id_: str, title: str, draw: Callable[[Figure], None], height: float = _HEIGHT) -> str:
    """An <svg> element: ids begin with `id_`, colours are the page's, and there is no style attribute or element."""
    buffer = io.BytesIO()
    with style.context(["default", _STYLE]):  # "default": whatever a user's matplotlibrc says
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg")
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        styles = (part.partition(":") for part in attributes.pop("style", "").split(";"))
        attributes |= {name.strip(): value.strip() for name, _, value in styles if name.strip() in _ATTRIBUTES}
        for name, value in attributes.items():
            if name == "id":
                attributes[name] = f"{id_}-{value}"
            elif name == "href":
                attributes[name] = f"#{id_}-{value[1:]}"
            else:
                attributes[name] = _PAINT.get(value, value.replace("url(#", f"url(#{id_}-"))
        element.attrib.clear()
        element.attrib.update(attributes)
    label = f"{title}; the numbers are in the table below"
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")
