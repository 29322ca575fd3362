"""Charts that set models against each other: the plane of forgetting and utility, rows as distributions, attacks.

Torch-free.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from soul_core.formatting import format_number
from soul_core.rendering.svg import (
    CHART_WIDTH,
    GRID,
    HALO,
    INK,
    PAPER,
    SOFT,
    TEXT_SIZE,
    MarkerStyle,
    add_label,
    add_plot_axes,
    apply_chart_settings,
    compute_nice_ticks,
    get_heading_style,
    make_figure,
    render_svg,
    shorten,
)
from soul_core.report import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LETTER, _LINE = 5.6, 12.0
_NUM_BINS = 24
_MOST_LETTERS = 20


@dataclass(frozen=True)
class ScatterPoint:
    """One model in the plane."""

    model: str
    x: float
    y: float
    x_interval: Interval | None = None
    y_interval: Interval | None = None


@dataclass(frozen=True)
class ScatterChart:
    """Models by how much they forgot and how much they kept."""

    title: str
    points: tuple[ScatterPoint, ...]
    x_title: str
    y_title: str
    note: str
    is_p_value: bool = False


@dataclass(frozen=True)
class DistributionChart:
    """One model's rows: values of the set in question and, beside them, of rows that no model has seen."""

    model: str
    values: tuple[float, ...]
    holdout_values: tuple[float, ...] = ()
    remark: str = ""


@dataclass(frozen=True)
class AttackChart:
    """One model under one attack: a metric without and with it."""

    model: str
    baseline: float
    attacked: float
    interval: Interval | None = None


def draw_scatter_chart(
    name: str, chart: ScatterChart, styles: Mapping[str, MarkerStyle], *, start: str, end: str, goal: str
) -> Markup:
    """Draw the plane. An arrow leads from `start` to `end`; dashed lines go through `goal`, the retrained model."""
    with apply_chart_settings():
        figure = make_figure(286)
        axes = add_plot_axes(figure, 44, 12, 16, 44)
        _axes_of(axes, chart)
        at = {point.model: point for point in chart.points}
        if goal in at:
            for line, where in ((axes.axvline, _along(chart, at[goal].x)), (axes.axhline, at[goal].y)):
                line(where, color=styles[goal].edge, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
        if start in at and end in at:
            axes.annotate(
                "", (_along(chart, at[end].x), at[end].y), (_along(chart, at[start].x), at[start].y),
                arrowprops={"arrowstyle": "->", "color": "#a6b0ba", "shrinkA": 8, "shrinkB": 8, "linewidth": 1.2},
            )  # fmt: skip
        for point in chart.points:
            _draw_point(axes, chart, point, styles[point.model])
        _place_names(axes, chart)
        told = "; ".join(f"{p.model}: {format_number(p.x)} and {format_number(p.y)}" for p in chart.points)
        return render_svg(figure, name, f"{chart.x_title} and {chart.y_title} of each model. {told}")


def draw_distribution_chart(
    name: str, title: str, distributions: Sequence[DistributionChart], styles: Mapping[str, MarkerStyle]
) -> Markup:
    """Draw each model's rows as a histogram over one axis; rows of the other set as an outline, mirrored below it."""
    everything = np.array(
        [v for spread in distributions for v in (*spread.values, *spread.holdout_values)], dtype=np.float64
    )
    log = _wants_log(everything)
    mirrored = any(spread.holdout_values for spread in distributions)
    band, head = (62 if mirrored else 44), 15
    height = (band + head) * len(distributions) + 18
    with apply_chart_settings():
        figure = make_figure(height)
        axes = add_plot_axes(figure, 8, 0, 14, 18)
        edges = _edges(everything, log=log)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(height - 18, 0), yticks=())
        ticks = _inside(compute_nice_ticks(edges[0], edges[-1], 4), edges)
        axes.set_xticks(ticks, [format_number(10**tick if log else tick) for tick in ticks])
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        for i, spread in enumerate(distributions):
            top = i * (band + head) + head
            _draw_spread(axes, spread, styles[spread.model], edges, top, band, log=log)
        told = "; ".join(_in_words(spread) for spread in distributions)
        return render_svg(
            figure, name, f"{title}, {'on a logarithmic axis, ' if log else ''}a histogram a model. {told}"
        )


def draw_attack_chart(
    name: str,
    metric: str,
    rows: Mapping[str, Sequence[AttackChart]],
    styles: Mapping[str, MarkerStyle],
    *,
    base_value: float | None,
) -> Markup:
    """Draw each attack: a line from the value without it (hollow) to the value under it (filled), one a model."""
    height = sum(20 + 15 * len(blows) + 4 for blows in rows.values()) + 18
    told = []
    with apply_chart_settings():
        figure = make_figure(height)
        names = {blow.model for blows in rows.values() for blow in blows}
        left = 14 + 5.8 * max(len(shorten(model, 14)) for model in names)
        axes = add_plot_axes(figure, left, 0, 58, 18)
        high = max([1.0, *(b.attacked for blows in rows.values() for b in blows)])
        ticks = compute_nice_ticks(0, high, 4)
        axes.set(xlim=(0, max(high, ticks[-1])), ylim=(height - 18, 0), yticks=())
        axes.set_xticks(ticks, [format_number(tick) for tick in ticks])
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        if base_value is not None:
            axes.axvline(base_value, color=SOFT, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
        y = 0.0
        for title, blows in rows.items():
            add_label(axes, title, (0, y + 14), (6 - left, 0), **get_heading_style(title))
            y += 20
            for blow in blows:
                _draw_blow(axes, blow, styles[blow.model], y + 7)
                y += 15
                told.append(
                    f"{title}, {blow.model}: {format_number(blow.baseline)} without, "
                    f"{format_number(blow.attacked)} under"
                )
            y += 4
        return render_svg(
            figure, name, f"{metric} under attack. {'; '.join(told)}. The table below holds the same numbers"
        )


def _axes_of(axes: "Axes", plane: ScatterChart) -> None:
    xs = [_along(plane, point.x) for point in plane.points]
    if plane.is_p_value:
        low = min(-2.0, *xs)
        axes.set(xlim=(low - 0.06 * -low, 0.06 * -low))
        ticks = [tick for tick in compute_nice_ticks(low, 0, 4) if tick == int(tick)]
        axes.set_xticks(ticks, [f"1e{tick:.0f}" if tick else "1" for tick in ticks])
        axes.axvline(math.log10(0.05), color=SOFT, linewidth=0.9, linestyle=(0, (1, 2)))
    else:
        axes.set(xlim=(min(-0.04, *xs), max(1.04, *xs)), xticks=(0, 0.25, 0.5, 0.75, 1))
        axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", "0.25", "0.5", "0.75", "1"))
    ys = [point.y for point in plane.points]
    axes.set(ylim=(min(-0.04, *ys), max(1.04, *ys)))
    axes.set_yticks((0, 0.25, 0.5, 0.75, 1), ("0", "0.25", "0.5", "0.75", "1"))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_xlabel(plane.x_title + " →", fontsize=TEXT_SIZE, labelpad=6)
    axes.set_ylabel(plane.y_title + " →", fontsize=TEXT_SIZE, labelpad=6)


def _along(plane: ScatterChart, x: float) -> float:
    return math.log10(max(x, 1e-300)) if plane.is_p_value else x


def _draw_point(axes: "Axes", plane: ScatterChart, point: ScatterPoint, look: MarkerStyle) -> None:
    x = _along(plane, point.x)
    if point.x_interval and not plane.is_p_value:
        axes.plot(point.x_interval, (point.y, point.y), color=look.edge, linewidth=1.1, zorder=2)
    if point.y_interval:
        axes.plot((x, x), point.y_interval, color=look.edge, linewidth=1.1, zorder=2)
    axes.plot(
        [x], [point.y], marker=look.marker, markersize=9, color=look.fill, markeredgecolor=look.edge,
        markeredgewidth=1.3, clip_on=False, zorder=3,
    )  # fmt: skip


def _place_names(axes: "Axes", plane: ScatterChart) -> None:
    """Write each name beside its point, where it meets no other name and no other point."""
    to_pixels = axes.transData.transform
    spots = [tuple(to_pixels((_along(plane, p.x), p.y))) for p in plane.points]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    for point, (x, y) in zip(plane.points, spots, strict=True):
        name = shorten(point.model, _MOST_LETTERS)
        wide = _LETTER * len(name)
        places = [(10 if side > 0 else -10 - wide, rise) for rise in (8, -16, -4, 20, -28) for side in (-1, 1)]
        boxes = [(x + dx, y + dy, x + dx + wide, y + dy + _LINE) for dx, dy in places]
        free = [
            box for box in boxes if box[0] > 40 and box[2] < CHART_WIDTH - 4 and not any(_meet(box, t) for t in taken)
        ]
        box = (free or boxes)[0]
        taken.append(box)
        axes.annotate(
            name, (x, y), (box[0] - x, box[1] - y + 2), xycoords="figure pixels", textcoords="offset points", bbox=HALO
        )


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _wants_log(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> bool:
    return bool((values > 0).all() and values.max() > 50 * values.min() and values.max() > 1)


def _edges(values: "np.ndarray[tuple[int], np.dtype[np.float64]]", *, log: bool) -> list[float]:
    scaled = np.log10(values) if log else values
    low, high = float(scaled.min()), float(scaled.max())
    if not log and low >= 0 and 0.5 < high <= 1:
        low, high = 0.0, 1.0
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return [float(edge) for edge in np.linspace(low, high, _NUM_BINS + 1)]


def _inside(ticks: Sequence[float], edges: Sequence[float]) -> list[float]:
    slack = 1e-9 * (edges[-1] - edges[0])
    return [tick for tick in ticks if edges[0] - slack <= tick <= edges[-1] + slack]


def _draw_spread(
    axes: "Axes",
    spread: DistributionChart,
    look: MarkerStyle,
    edges: Sequence[float],
    top: float,
    band: float,
    *,
    log: bool,
) -> None:
    def shares(values: Sequence[float]) -> list[float]:
        scaled = np.log10(values) if log else np.asarray(values)
        counts, _ = np.histogram(scaled, bins=np.asarray(edges))
        return [float(count) / max(1, len(values)) for count in counts]

    up, down = shares(spread.values), shares(spread.holdout_values)
    room = 0.58 * band if spread.holdout_values else band - 2
    tallest = max(*up, *down, 1e-9)
    ground = top + room + 1
    axes.stairs(
        [ground - room * s / tallest for s in up], edges, baseline=ground, fill=True, facecolor=look.fill,
        edgecolor=look.edge, hatch=look.hatch, linewidth=0.9,
    )  # fmt: skip
    if spread.holdout_values:
        low = [ground + (band - room - 3) * s / tallest for s in down]
        axes.stairs(low, edges, baseline=ground, fill=True, facecolor=PAPER, edgecolor=SOFT, linewidth=1)
    axes.plot((edges[0], edges[-1]), (ground, ground), color=SOFT, linewidth=0.8)
    center = float(np.median(np.log10(spread.values) if log else spread.values))
    axes.plot([center], [ground], marker="^", markersize=6, color=INK, markeredgecolor=PAPER, zorder=4, clip_on=False)
    title = shorten(spread.model, _MOST_LETTERS) + (f": {spread.remark}" if spread.remark else "")
    add_label(axes, title, (0, top - 3), (0, 0), fontsize=TEXT_SIZE, va="baseline")


def _in_words(spread: DistributionChart) -> str:
    low, middle, high = (format_number(float(q)) for q in np.quantile(spread.values, (0.25, 0.5, 0.75)))
    text = f"{spread.model}: median {middle}, middle half {low} to {high}, {len(spread.values)} rows"
    if spread.holdout_values:
        text += f"; rows never seen: median {format_number(float(np.median(spread.holdout_values)))}, "
        text += f"{len(spread.holdout_values)} rows"
    return text + (f", {spread.remark}" if spread.remark else "")


def _draw_blow(axes: "Axes", blow: AttackChart, look: MarkerStyle, y: float) -> None:
    axes.plot((blow.baseline, blow.attacked), (y, y), color=look.edge, linewidth=2, zorder=2)
    if blow.interval:
        axes.plot(blow.interval, (y, y), color=look.edge, linewidth=0.9, marker="|", markersize=5, zorder=2)
    style: dict[str, Any] = {
        "marker": look.marker,
        "markeredgecolor": look.edge,
        "markeredgewidth": 1.2,
        "clip_on": False,
    }
    axes.plot([blow.baseline], [y], markersize=5, color=PAPER, zorder=3, **style)
    axes.plot([blow.attacked], [y], markersize=7, color=look.fill, zorder=3, **style)
    add_label(axes, shorten(blow.model, 14), (0, y), (-8, 0), color=SOFT, ha="right", va="center_baseline")
    add_label(axes, format_number(blow.attacked), (1, y), (7, 0), va="center_baseline")
