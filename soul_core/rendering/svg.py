"""From a matplotlib figure to SVG in a page: one style per model, text as text, equal bytes for equal numbers.

matplotlib is imported when the first chart is drawn, so that readers of a few words of a report do not wait for it.
"""

import io
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from markupsafe import Markup

from soul_core.formatting import replace_control_characters
from soul_core.spec import BASE, RETRAINED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, GRID, SHADE, PAPER = "#1b1f24", "#57606a", "#dfe3e8", "#e8f1ee", "#ffffff"
#: Width in pixels. A chart of this width fits a phone, so that no text in it shrinks.
CHART_WIDTH = 320
TEXT_SIZE, SMALL_TEXT_SIZE = 11.0, 10.0
_FONT = 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif'
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
#: Background of text, so that a line under it does not strike it through.
HALO = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
#: A reference of one element to another: a link, or its paint. Colors look alike but follow other characters.
_REFERENCE = re.compile(r"(?:^|\s|url\()#(\w{11,})")
#: matplotlib has one set of settings per process.
_SETTINGS_LOCK = threading.Lock()
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
    """The style of a model in all charts. Hatch and marker repeat what the color says, for readers without color."""

    fill: str
    edge: str
    hatch: str
    marker: str


# Colors: Okabe and Ito, "Color Universal Design" (2008), lightened under a hatch.
_JUDGED_STYLE = MarkerStyle("#0072b2", "#00476f", "", "o")
_BASE_STYLE = MarkerStyle("#e4e8ec", "#6e7781", "////", "s")
_RETRAINED_STYLE = MarkerStyle("#f7d58a", "#8f5f00", "xxxx", "D")
_OTHER_STYLES = (
    MarkerStyle("#8fd3bf", "#00644a", "\\\\\\\\", "^"),
    MarkerStyle("#f0b48a", "#a04400", "----", "v"),
    MarkerStyle("#e6bcd3", "#8a3d69", "||||", "P"),
    MarkerStyle("#b5dcf4", "#1a6696", "++++", "X"),
    MarkerStyle("#f6f0a0", "#6b6200", "//", "h"),
    MarkerStyle("#ffffff", "#000000", "\\\\", "*"),
)


def assign_marker_styles(models: Iterable[str], judged: str) -> dict[str, MarkerStyle]:
    """Return each model's style: fixed for base, judged and retrained model, by order for others."""
    fixed = {BASE: _BASE_STYLE, RETRAINED: _RETRAINED_STYLE, judged: _JUDGED_STYLE}
    others = [name for name in models if name not in fixed]
    return {name: fixed.get(name) or _OTHER_STYLES[others.index(name) % len(_OTHER_STYLES)] for name in models}


@contextmanager
def apply_chart_settings() -> Iterator[None]:
    """Set matplotlib's settings while a chart is drawn, whatever the process or the user's files have set."""
    import matplotlib as mpl

    with _SETTINGS_LOCK, mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's font draws it
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def make_figure(height: float, *, width: float = CHART_WIDTH) -> "Figure":
    """Return an empty figure of this size in pixels. One point is one pixel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    return figure


def add_plot_axes(figure: "Figure", left: float, top: float, right: float, bottom: float) -> "Axes":
    """Add axes without a frame; margins are in pixels."""
    width, height = figure.get_figwidth() * 72, figure.get_figheight() * 72
    axes = figure.add_axes((left / width, bottom / height, (width - left - right) / width, 1 - (top + bottom) / height))
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, pad=4, colors=SOFT, labelsize=SMALL_TEXT_SIZE)
    axes.set_axisbelow(True)
    return axes


def compute_ticks(low: float, high: float, max_intervals: int, *, only_integers: bool = False) -> list[float]:
    """Return round numbers that cover [low, high], in at most this many intervals."""
    from matplotlib.ticker import MaxNLocator

    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    locator = MaxNLocator(max_intervals, steps=[1, 2, 2.5, 5, 10], integer=only_integers)
    return [float(tick) for tick in locator.tick_values(low, high)]


def add_label(axes: "Axes", text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """Write text at (fraction of the axes' width, height in data units), moved by an offset in pixels."""
    axes.annotate(
        replace_control_characters(text),
        at,
        offset,
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        **style,
    )


def get_heading_style(text: str) -> dict[str, Any]:
    """Return the style of a title inside a chart: never wider than the chart, on a background of its own."""
    scale = CHART_WIDTH / (0.62 * TEXT_SIZE * len(text)) if text else 1.0
    return {
        "fontsize": round(TEXT_SIZE * min(1.0, scale), 2),
        "fontweight": "bold",
        "va": "baseline",
        "bbox": HALO,
        "zorder": 6,
    }


def shorten(text: str, max_chars: int) -> str:
    """Cut the middle out of a long name, because beginnings and ends distinguish names."""
    text = replace_control_characters(text)
    if len(text) <= max_chars:
        return text
    num_head_chars = (max_chars - 1) // 2
    return f"{text[:num_head_chars]}…{text[num_head_chars + 1 - max_chars :]}"


def render_svg(figure: "Figure", name: str, label: str) -> Markup:
    """Return the figure as an SVG element.

    Args:
        figure: The figure; its ids are replaced by those of this chart.
        name: Prefix of all ids, unique in the page.
        label: What the chart shows, for readers who cannot see it.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    output = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(output, metadata=no_metadata)
    root = ET.fromstring(output.getvalue())  # noqa: S314  our own output
    for style in root.findall(f"{_SVG}defs[{_SVG}style]"):
        root.remove(style)
    _clean(root, re.sub(r"[^a-z0-9_-]", "-", name))
    view_box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib |= {
        "class": "chart",
        "viewBox": view_box,
        "role": "img",
        "aria-label": replace_control_characters(label),
        "font-family": _FONT,
        "stroke-linejoin": "round",
    }
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704  serialized, so escaped, by ElementTree


def _clean(root: ET.Element, name: str) -> None:
    """Drop namespaces and unused ids, prefix the other ids with the chart's name, shorten numbers."""
    used = set(_REFERENCE.findall(" ".join(value for element in root.iter() for value in element.attrib.values())))
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.tail = None
        element.text = element.text if element.tag == "text" else None
        cleaned = {key.removeprefix(_XLINK): _clean_value(key, value, name) for key, value in element.attrib.items()}
        if element.get("id") not in used:
            cleaned.pop("id", None)
        if cleaned.get("transform", "").startswith("rotate(-0 "):
            del cleaned["transform"]
        element.attrib.clear()
        element.attrib |= cleaned
    _remove_empty_groups(root)


def _clean_value(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "style":
        value = re.sub(r"; font-family: [^;]*|font-family: [^;]*; ?", "", value)
    elif key in {"d", "x", "y", "width", "height", "transform", "viewBox"}:
        value = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), value)
        value = " ".join(value.split())
    return _REFERENCE.sub(lambda reference: reference[0].replace("#", f"#{name}-"), value)


def _remove_empty_groups(parent: ET.Element) -> None:
    """Replace groups without attributes by their children."""
    children: list[ET.Element] = []
    for child in list(parent):
        _remove_empty_groups(child)
        is_empty = child.tag == "g" and not child.attrib
        children += list(child) if is_empty else [child]
    for child in list(parent):
        parent.remove(child)
    parent.extend(children)
