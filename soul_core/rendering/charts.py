"""Charts of values and curves: bars with intervals, the bound of a criterion, one curve of the run. Torch-free."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from soul_core.catalogue import METRIC_CATALOG
from soul_core.formatting import format_number
from soul_core.rendering.svg import (
    GRID,
    INK,
    PAPER,
    SHADE,
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
from soul_core.rendering.tables import CriterionRow
from soul_core.report import MetricValue

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BAR, _THICK, _TITLE, _GAP = 15, 10, 17, 7
_MOST_POINTS = 400
_MOST_LETTERS = 16
#: Sophia's authors want this share of the weights unclipped (arXiv:2305.14342, section 3.1).
HEALTHY_UNCLIPPED_RANGE = (0.1, 0.5)
UNCLIPPED_CURVE = "unclipped_fraction"

ValuesByModel = Mapping[str, Mapping[str, MetricValue]]


def draw_swatch(model: str, style: MarkerStyle, index: int) -> Markup:
    """Draw a small sample of a model's look."""
    from matplotlib.patches import Rectangle

    with apply_chart_settings():
        figure = make_figure(14, width=26)
        patch = Rectangle((0.04, 0.07), 0.92, 0.86, facecolor=style.fill, edgecolor=style.edge, hatch=style.hatch)
        figure.add_artist(patch)
        return render_svg(figure, f"swatch-{index}", f"look of {model} in the charts")


def draw_bar_charts(name: str, models: ValuesByModel, styles: Mapping[str, MarkerStyle]) -> list[Markup]:
    """Draw one set's metrics (model -> metric -> value): those that share unit and target together, others alone."""
    names = list(dict.fromkeys(metric for values in models.values() for metric in values))
    groups: dict[tuple[str, float | None], list[str]] = {}
    for metric in names:
        if any(m[metric].value is not None for m in models.values() if metric in m):
            groups.setdefault(_axis_of(metric, models), []).append(metric)
    return [_bars(f"bars-{name}-{i}", group, models, styles) for i, group in enumerate(groups.values())]


def draw_criterion_chart(name: str, criterion_row: CriterionRow) -> Markup | None:
    """Draw one criterion: the side that was asked for shaded, the value with its interval on or off it."""
    value, bound, at_most = criterion_row.value, criterion_row.bound, criterion_row.result.criterion.at_most is not None
    if value is None or bound is None:
        return None
    low, high = criterion_row.interval or (value, value)
    left, right = min(0.0, low, bound), max(bound, high)
    right += 0.12 * ((right - left) or 1.0)
    unit = " times the base's" if criterion_row.base_value else ""
    with apply_chart_settings():
        figure = make_figure(32, width=170)
        axes = add_plot_axes(figure, 6, 2, 6, 15)
        axes.set(xlim=(left, right), ylim=(0, 1), yticks=(), xticks=())
        axes.axvspan(left, right, color="#f1f3f5", linewidth=0)
        axes.axvspan(*((left, bound) if at_most else (bound, right)), color="#cfe3da", linewidth=0)
        axes.axvline(bound, color=INK, linewidth=1.6)
        _whisker(axes, value, (low, high), 0.5, marker="o")
        share = (bound - left) / (right - left)
        side = "left" if share < 0.25 else "right" if share > 0.75 else "center"
        sign = f"{'≤' if at_most else '≥'} {format_number(bound)}{'×' if criterion_row.base_value else ''}"
        axes.annotate(sign, (bound, 0), (0, -3), textcoords="offset points", ha=side, va="top", fontsize=TEXT_SIZE)
        spread = f", interval {format_number(low)} to {format_number(high)}" if criterion_row.interval else ""
        asked = f"{'at most' if at_most else 'at least'} {format_number(bound)} was asked"
        return render_svg(
            figure, name, f"{format_number(value)}{unit}{spread}; {asked}: {criterion_row.result.outcome}"
        )


def draw_curve(name: str, title: str, values: Sequence[float | None]) -> Markup | None:
    """Draw one value a step; None leaves a gap. Long runs keep the extremes of each stretch, so no spike is hidden."""
    points = [(step, v) for step, v in enumerate(values, start=1) if v is not None and math.isfinite(v)]
    if not points:
        return None
    low, high = min(v for _, v in points), max(v for _, v in points)
    healthy = HEALTHY_UNCLIPPED_RANGE if name == UNCLIPPED_CURVE else None
    ticks = compute_nice_ticks(*((min(0.0, low), max(0.6, high)) if healthy else (low, high)), 3)
    with apply_chart_settings():
        figure = make_figure(132)
        axes = add_plot_axes(figure, 52, 8, 12, 30)
        axes.set(xlim=(1, max(len(values), 2)), ylim=(min(low, ticks[0]), max(high, ticks[-1])))
        axes.set_yticks(ticks, [format_number(tick) for tick in ticks])
        steps = sorted({1, len(values)})
        axes.set_xticks(steps, [f"step {step:,}" if step == 1 else f"{step:,}" for step in steps])
        for label in axes.get_xticklabels()[1:]:
            label.set_horizontalalignment("right")
        axes.get_xticklabels()[0].set_horizontalalignment("left")
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        if healthy:
            axes.axhspan(*healthy, color=SHADE, linewidth=0)
            axes.annotate("healthy", (1, healthy[1]), (4, -3), textcoords="offset points", va="top", color=SOFT)
        gap = max(1, math.ceil(2 * len(values) / _MOST_POINTS))
        for stretch in split_at_gaps(downsample(points), max_gap=gap):
            alone = "o" if len(stretch) == 1 else ""
            axes.plot(*zip(*stretch, strict=True), color="#0072b2", linewidth=1.6, marker=alone, markersize=2.5)
        return render_svg(figure, f"curve-{name}", describe_curve(title, values))


def describe_curve(title: str, values: Sequence[float | None]) -> str:
    """Say in words what a curve shows."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    text = (
        f"{title}: {format_number(known[0])} at first, {format_number(known[-1])} at last, "
        f"between {format_number(min(known))} and {format_number(max(known))}, {len(known)} values"
    )
    return text + (f", {len(values) - len(known)} steps without one" if len(known) < len(values) else "")


def downsample(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Keep lowest and highest point of each stretch, and both ends."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / _MOST_POINTS)
    kept = {points[0], points[-1]}
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        kept |= {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
    return sorted(kept)


def split_at_gaps(points: Sequence[tuple[int, float]], *, max_gap: int) -> list[list[tuple[int, float]]]:
    """Cut where more than `gap` steps have no value."""
    cut: list[list[tuple[int, float]]] = []
    for point in points:
        if not cut or point[0] - cut[-1][-1][0] > max_gap:
            cut.append([])
        cut[-1].append(point)
    return cut


def _is_share(metric: str, models: ValuesByModel) -> bool:
    if metric in METRIC_CATALOG:
        return (METRIC_CATALOG[metric].low, METRIC_CATALOG[metric].high) == (0, 1)
    values = [m[metric].value for m in models.values() if metric in m]
    return all(v is None or 0 <= v <= 1 for v in values)


def _axis_of(metric: str, models: ValuesByModel) -> tuple[str, float | None]:
    """Return what metrics must have in common to share an axis."""
    entry = METRIC_CATALOG.get(metric)
    if not _is_share(metric, models):
        return metric, None
    unit = entry.unit if entry else "share"
    return "share" if unit == "probability" else unit, entry.target if entry else None


def _bars(name: str, metrics: Sequence[str], models: ValuesByModel, looks: Mapping[str, MarkerStyle]) -> Markup:
    rows = [(n, [m for m in models if n in models[m] and models[m][n].value is not None]) for n in metrics]
    height = sum(_TITLE + _BAR * len(have) + _GAP for _, have in rows) + 16
    low, high = _range(metrics, models)
    widest = max(len(shorten(m, _MOST_LETTERS)) for _, have in rows for m in have)
    left = 12 + 5.8 * widest
    told = []
    with apply_chart_settings():
        figure = make_figure(height)
        axes = add_plot_axes(figure, left, 0, 56, 16)
        ticks = compute_nice_ticks(low, high, 4)
        axes.set(xlim=(min(low, ticks[0]), max(high, ticks[-1])), ylim=(height - 16, 0), yticks=())
        axes.set_xticks(ticks, [format_number(tick) for tick in ticks])
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        target = METRIC_CATALOG[metrics[0]].target if metrics[0] in METRIC_CATALOG else None
        if target is not None:
            axes.axvline(target, color=SOFT, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
        y = 0.0
        for metric, have in rows:
            title = METRIC_CATALOG[metric].title if metric in METRIC_CATALOG else metric
            add_label(axes, title, (0, y + 13), (6 - left, 0), **get_heading_style(title))
            y += _TITLE
            for model in have:
                _bar(axes, model, models[model][metric], looks[model], y + _BAR / 2)
                y += _BAR
            y += _GAP
            told.append(f"{title}: " + ", ".join(f"{m} {format_number(models[m][metric].value or 0)}" for m in have))
        return render_svg(
            figure, name, "; ".join(told) + ". The table below holds the same numbers with their intervals"
        )


def _range(metrics: Sequence[str], models: ValuesByModel) -> tuple[float, float]:
    if len(metrics) > 1 or _is_share(metrics[0], models):
        return 0.0, 1.0
    values = [m[metrics[0]] for m in models.values() if metrics[0] in m]
    ends = [end for v in values if v.value is not None for end in (v.value, *(v.interval or ()))]
    return min(0.0, *ends), max(0.0, *ends)


def _bar(axes: "Axes", model: str, value: MetricValue, look: MarkerStyle, y: float) -> None:
    assert value.value is not None
    axes.barh(y, value.value, _THICK, facecolor=look.fill, edgecolor=look.edge, hatch=look.hatch, linewidth=0.9)
    add_label(axes, shorten(model, _MOST_LETTERS), (0, y), (-6, 0), ha="right", va="center_baseline", color=SOFT)
    if value.interval:
        _whisker(axes, value.value, value.interval, y)
    add_label(axes, format_number(value.value), (1, y), (5, 0), va="center_baseline")


def _whisker(axes: "Axes", value: float, interval: tuple[float, float], y: float, *, marker: str = "") -> None:
    """An interval: dark on a light halo, so that it shows on any bar."""
    axes.plot(interval, (y, y), color=PAPER, linewidth=3.6, solid_capstyle="butt", zorder=3)
    axes.plot(interval, (y, y), color=INK, linewidth=1.3, marker="|", markersize=6, markeredgewidth=1.3, zorder=4)
    if marker:
        axes.plot([value], [y], marker=marker, markersize=6, color="#0072b2", markeredgecolor=PAPER, zorder=5)
