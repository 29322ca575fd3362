"""Forgetting against utility: one point for each model. Torch-free."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from soul_core.formatting import format_number
from soul_core.rendering.svg import (
    CHART_WIDTH,
    GRID,
    HALO,
    SOFT,
    TEXT_SIZE,
    MarkerStyle,
    add_plot_axes,
    apply_chart_settings,
    compute_ticks,
    make_figure,
    render_svg,
    shorten,
)
from soul_core.report import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Width of a letter and height of a line, in pixels, to keep names apart.
_LETTER, _LINE = 5.6, 12.0
_MAX_NAME_CHARS = 20


@dataclass(frozen=True)
class ScatterPoint:
    """One model: how much it forgot (x) and how much it retained (y)."""

    model: str
    x: float
    y: float
    x_interval: Interval | None = None
    y_interval: Interval | None = None


@dataclass(frozen=True)
class ScatterChart:
    """A chart of all models.

    Attributes:
        is_p_value: x is a p-value, drawn on a logarithmic axis with a line at 0.05.
    """

    title: str
    points: tuple[ScatterPoint, ...]
    x_title: str
    y_title: str
    note: str
    is_p_value: bool = False

    def scale_x(self, x: float) -> float:
        """Return x on the chart's axis."""
        return math.log10(max(x, 1e-300)) if self.is_p_value else x


def draw_scatter_chart(
    name: str, chart: ScatterChart, styles: Mapping[str, MarkerStyle], *, start: str, end: str, goal: str
) -> Markup:
    """Draw the chart, with an arrow from model `start` to model `end` and dashed lines through model `goal`."""
    with apply_chart_settings():
        figure = make_figure(286)
        axes = add_plot_axes(figure, 44, 12, 16, 44)
        _set_axes(axes, chart)
        at = {point.model: (chart.scale_x(point.x), point.y) for point in chart.points}
        if goal in at:
            for draw_line, position in zip((axes.axvline, axes.axhline), at[goal], strict=True):
                draw_line(position, color=styles[goal].edge, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
        if start in at and end in at:
            arrow = {"arrowstyle": "->", "color": "#a6b0ba", "shrinkA": 8, "shrinkB": 8, "linewidth": 1.2}
            axes.annotate("", at[end], at[start], arrowprops=arrow)
        for point in chart.points:
            _draw_point(axes, chart, point, styles[point.model])
        _place_names(axes, chart)
        values = "; ".join(
            f"{point.model}: {format_number(point.x)} and {format_number(point.y)}" for point in chart.points
        )
        return render_svg(figure, name, f"{chart.x_title} and {chart.y_title} of each model. {values}")


def _set_axes(axes: "Axes", chart: ScatterChart) -> None:
    xs = [chart.scale_x(point.x) for point in chart.points]
    fractions = (0, 0.25, 0.5, 0.75, 1)
    fraction_labels = ("0", "0.25", "0.5", "0.75", "1")
    if chart.is_p_value:
        low = min(-2.0, *xs)
        ticks = compute_ticks(low, 0, 4, only_integers=True)
        axes.set_xticks(ticks, [f"1e{tick:.0f}" if tick else "1" for tick in ticks])
        axes.set_xlim(1.06 * low, -0.06 * low)
        axes.axvline(math.log10(0.05), color=SOFT, linewidth=0.9, linestyle=(0, (1, 2)))
    else:
        axes.set_xticks(fractions, fraction_labels)
        axes.set_xlim(min(-0.04, *xs), max(1.04, *xs))
    ys = [point.y for point in chart.points]
    axes.set_yticks(fractions, fraction_labels)
    axes.set_ylim(min(-0.04, *ys), max(1.04, *ys))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_xlabel(chart.x_title + " →", fontsize=TEXT_SIZE, labelpad=6)
    axes.set_ylabel(chart.y_title + " →", fontsize=TEXT_SIZE, labelpad=6)


def _draw_point(axes: "Axes", chart: ScatterChart, point: ScatterPoint, style: MarkerStyle) -> None:
    x = chart.scale_x(point.x)
    if point.x_interval and not chart.is_p_value:
        axes.plot(point.x_interval, (point.y, point.y), color=style.edge, linewidth=1.1, zorder=2)
    if point.y_interval:
        axes.plot((x, x), point.y_interval, color=style.edge, linewidth=1.1, zorder=2)
    axes.plot(
        [x], [point.y], marker=style.marker, markersize=9, color=style.fill, markeredgecolor=style.edge,
        markeredgewidth=1.3, clip_on=False, zorder=3,
    )  # fmt: skip


def _place_names(axes: "Axes", chart: ScatterChart) -> None:
    """Write each name next to its point, where it covers no other name and no other point."""
    pixels = [tuple(axes.transData.transform((chart.scale_x(point.x), point.y))) for point in chart.points]
    occupied = [(x - 6, y - 6, x + 6, y + 6) for x, y in pixels]
    for point, (x, y) in zip(chart.points, pixels, strict=True):
        name = shorten(point.model, _MAX_NAME_CHARS)
        width = _LETTER * len(name)
        offsets = [(10 if side > 0 else -10 - width, rise) for rise in (8, -16, -4, 20, -28) for side in (-1, 1)]
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + _LINE) for dx, dy in offsets]
        free = [
            box
            for box in boxes
            if box[0] > 40 and box[2] < CHART_WIDTH - 4 and not any(_do_overlap(box, other) for other in occupied)
        ]
        box = (free or boxes)[0]
        occupied.append(box)
        axes.annotate(
            name, (x, y), (box[0] - x, box[1] - y + 2), xycoords="figure pixels", textcoords="offset points", bbox=HALO
        )


def _do_overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
