"""From a matplotlib figure to SVG inside a page: one look for each model, text as text, equal bytes for equal numbers.

matplotlib is imported when the first chart is drawn: whoever only needs a word of the report does not wait for it.
"""

import io
import math
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from markupsafe import Markup

from soul_core.rendering.labels import replace_control_characters
from soul_core.spec import BASE, RETRAINED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, GRID, SHADE, PAPER = "#1b1f24", "#57606a", "#dfe3e8", "#e8f1ee", "#ffffff"
#: Drawn at this width a chart fits a phone as it is: no text in it shrinks below its size.
CHART_WIDTH = 320
TEXT_SIZE, SMALL_TEXT_SIZE = 11.0, 10.0
_FONT = 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif'
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
#: Behind text, so that a line under it does not strike it through.
HALO = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
#: How one element names another: by link, or as its paint. Colors look alike but stand after other words.
_POINTER = re.compile(r"(?:^|\s|url\()#(\w{11,})")
#: matplotlib keeps its settings in one place for the whole process.
_ONE_AT_A_TIME = threading.Lock()
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "soul",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": SMALL_TEXT_SIZE,
    "hatch.linewidth": 0.9,
    "text.color": INK,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class MarkerStyle:
    """How a model looks in every chart: color, and a hatch and a marker, so that color never carries it alone."""

    fill: str
    edge: str
    hatch: str
    marker: str


# Colors: Okabe and Ito, "Color Universal Design" (2008), lightened where a hatch lies on top.
_JUDGED = MarkerStyle("#0072b2", "#00476f", "", "o")
_BASE = MarkerStyle("#e4e8ec", "#6e7781", "////", "s")
_REFERENCE = MarkerStyle("#f7d58a", "#8f5f00", "xxxx", "D")
_OTHERS = (
    MarkerStyle("#8fd3bf", "#00644a", "\\\\\\\\", "^"),
    MarkerStyle("#f0b48a", "#a04400", "----", "v"),
    MarkerStyle("#e6bcd3", "#8a3d69", "||||", "P"),
    MarkerStyle("#b5dcf4", "#1a6696", "++++", "X"),
    MarkerStyle("#f6f0a0", "#6b6200", "//", "h"),
    MarkerStyle("#ffffff", "#000000", "\\\\", "*"),
)


def assign_marker_styles(models: Iterable[str], judged: str) -> dict[str, MarkerStyle]:
    """Give each model its look: the same in every report for those with a meaning, by order for others."""
    fixed = {BASE: _BASE, RETRAINED: _REFERENCE, judged: _JUDGED}
    others = [name for name in models if name not in fixed]
    return {name: fixed.get(name) or _OTHERS[others.index(name) % len(_OTHERS)] for name in models}


@contextmanager
def apply_chart_settings() -> Iterator[None]:
    """Hold matplotlib's settings while a chart is made: ours, whatever the process or the user's files have set."""
    import matplotlib as mpl

    with _ONE_AT_A_TIME, mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's font draws it, not ours
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def make_figure(height: float, *, width: float = CHART_WIDTH) -> "Figure":
    """Return an empty figure of that many pixels. One point is one pixel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    return figure


def add_plot_axes(figure: "Figure", left: float, top: float, right: float, bottom: float) -> "Axes":
    """Add axes without a frame, with margins in pixels."""
    width, height = figure.get_figwidth() * 72, figure.get_figheight() * 72
    axes = figure.add_axes((left / width, bottom / height, (width - left - right) / width, 1 - (top + bottom) / height))
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, pad=4, colors=SOFT, labelsize=SMALL_TEXT_SIZE)
    axes.set_axisbelow(True)
    return axes


def add_label(axes: "Axes", text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """Write at a share of the width and a height in the data's measure, so many pixels away."""
    axes.annotate(
        replace_control_characters(text),
        at,
        offset,
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        **style,
    )


def get_heading_style(text: str) -> dict[str, Any]:
    """Return the style of a title inside a chart: never wider than the chart, and no line runs through it."""
    fits = CHART_WIDTH / (0.62 * TEXT_SIZE * len(text)) if text else 1.0
    return {
        "fontsize": round(TEXT_SIZE * min(1.0, fits), 2),
        "fontweight": "bold",
        "va": "baseline",
        "bbox": HALO,
        "zorder": 6,
    }


def render_svg(figure: "Figure", name: str, label: str) -> Markup:
    """Return the figure as an SVG element. `name` makes its ids its own, `label` says what is seen."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    drawn = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(drawn, metadata=nothing)
    root = ET.fromstring(drawn.getvalue())  # noqa: S314  just drawn by us
    for style in root.findall(f"{_SVG}defs[{_SVG}style]"):
        root.remove(style)
    _tidy(root, re.sub(r"[^a-z0-9_-]", "-", name))
    view = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib |= {
        "class": "chart",
        "viewBox": view,
        "role": "img",
        "aria-label": replace_control_characters(label),
        "font-family": _FONT,
        "stroke-linejoin": "round",
    }
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704  serialized, so escaped, by ElementTree


def compute_nice_ticks(low: float, high: float, num_ticks: int) -> list[float]:
    """Return round numbers that cover [low, high]: about `most` of them."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / num_ticks
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def shorten(text: str, max_chars: int) -> str:
    """Cut the middle out of a long name: beginnings and ends tell names apart."""
    text = replace_control_characters(text)
    if len(text) <= max_chars:
        return text
    head = (max_chars - 1) // 2
    return f"{text[:head]}…{text[head + 1 - max_chars :]}"


def _tidy(root: ET.Element, name: str) -> None:
    """Drop namespaces and ids that nothing points at, give the others the chart's name, shorten numbers."""
    used = set(_POINTER.findall(" ".join(value for element in root.iter() for value in element.attrib.values())))
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.tail = None
        element.text = element.text if element.tag == "text" else None
        tidied = {key.removeprefix(_XLINK): _tidied(key, value, name) for key, value in element.attrib.items()}
        if element.get("id") not in used:
            tidied.pop("id", None)
        if tidied.get("transform", "").startswith("rotate(-0 "):
            del tidied["transform"]
        element.attrib.clear()
        element.attrib |= tidied
    _flatten(root)


def _tidied(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "style":
        value = re.sub(r"; font-family: [^;]*|font-family: [^;]*; ?", "", value)
    elif key in {"d", "x", "y", "width", "height", "transform", "viewBox"}:
        value = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), value)
        value = " ".join(value.split())
    return _POINTER.sub(lambda found: found[0].replace("#", f"#{name}-"), value)


def _flatten(parent: ET.Element) -> None:
    """Take away groups that carry nothing."""
    children: list[ET.Element] = []
    for child in list(parent):
        _flatten(child)
        bare = child.tag == "g" and not child.attrib
        children += list(child) if bare else [child]
    for child in list(parent):
        parent.remove(child)
    parent.extend(children)
