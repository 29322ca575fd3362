"""Charts of values: bars with intervals, the bound of a criterion, one curve of the run. Torch-free."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from soul_core.catalogue import METRIC_CATALOG
from soul_core.formatting import format_number
from soul_core.rendering.labels import get_metric_title
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
    compute_ticks,
    get_heading_style,
    make_figure,
    render_svg,
    shorten,
)
from soul_core.rendering.tables import CriterionRow
from soul_core.report import MetricValue

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Heights in pixels: a bar with its margin, the bar itself, the title of a metric, the gap after a metric.
_BAR_ROW, _BAR, _TITLE, _GAP = 15, 10, 17, 7
_MAX_POINTS = 400
_MAX_NAME_CHARS = 16
#: Sophia's authors recommend that this fraction of the weights is unclipped (arXiv:2305.14342, section 3.1).
HEALTHY_UNCLIPPED_RANGE = (0.1, 0.5)
UNCLIPPED_CURVE = "unclipped_fraction"

ValuesByModel = Mapping[str, Mapping[str, MetricValue]]


def draw_swatch(model: str, style: MarkerStyle, index: int) -> Markup:
    """Draw a small sample of a model's style."""
    from matplotlib.patches import Rectangle

    with apply_chart_settings():
        figure = make_figure(14, width=26)
        patch = Rectangle((0.04, 0.07), 0.92, 0.86, facecolor=style.fill, edgecolor=style.edge, hatch=style.hatch)
        figure.add_artist(patch)
        return render_svg(figure, f"swatch-{index}", f"style of {model} in the charts")


def draw_bar_charts(name: str, models: ValuesByModel, styles: Mapping[str, MarkerStyle]) -> list[Markup]:
    """Draw one data set's metrics. Metrics that share unit and target share a chart."""
    groups: dict[tuple[str, float | None], list[str]] = {}
    for metric in dict.fromkeys(metric for values in models.values() for metric in values):
        if any(values[metric].value is not None for values in models.values() if metric in values):
            groups.setdefault(_get_axis(metric, models), []).append(metric)
    return [_draw_bars(f"bars-{name}-{i}", group, models, styles) for i, group in enumerate(groups.values())]


def draw_criterion_chart(name: str, criterion_row: CriterionRow) -> Markup | None:
    """Draw one criterion: the range within the bound shaded, the value with its interval on it."""
    value, bound, is_upper = (
        criterion_row.value,
        criterion_row.bound,
        criterion_row.result.criterion.at_most is not None,
    )
    if value is None or bound is None:
        return None
    low, high = criterion_row.interval or (value, value)
    left, right = min(0.0, low, bound), max(bound, high)
    right += 0.12 * ((right - left) or 1.0)
    unit = criterion_row.unit
    with apply_chart_settings():
        figure = make_figure(32, width=170)
        axes = add_plot_axes(figure, 6, 2, 6, 15)
        axes.set(xlim=(left, right), ylim=(0, 1), yticks=(), xticks=())
        axes.axvspan(left, right, color="#f1f3f5", linewidth=0)
        axes.axvspan(*((left, bound) if is_upper else (bound, right)), color="#cfe3da", linewidth=0)
        axes.axvline(bound, color=INK, linewidth=1.6)
        _draw_interval(axes, value, (low, high), 0.5, marker="o")
        position = (bound - left) / (right - left)
        alignment = "left" if position < 0.25 else "right" if position > 0.75 else "center"
        sign = f"{'≤' if is_upper else '≥'} {format_number(bound)}{'×' if criterion_row.compared_value else ''}"
        axes.annotate(sign, (bound, 0), (0, -3), textcoords="offset points", ha=alignment, va="top", fontsize=TEXT_SIZE)
        interval = f", interval {format_number(low)} to {format_number(high)}" if criterion_row.interval else ""
        bound_text = f"bound: {'at most' if is_upper else 'at least'} {format_number(bound)}"
        label = f"{format_number(value)}{unit}{interval}; {bound_text}; {criterion_row.result.outcome}"
        return render_svg(figure, name, label)


def draw_curve(name: str, title: str, values: Sequence[float | None]) -> Markup | None:
    """Draw one value per step; None leaves a gap. Long curves are downsampled so that no spike is lost."""
    points = [(step, value) for step, value in enumerate(values, start=1) if value is not None and math.isfinite(value)]
    if not points:
        return None
    low, high = min(value for _, value in points), max(value for _, value in points)
    healthy = HEALTHY_UNCLIPPED_RANGE if name == UNCLIPPED_CURVE else None
    ticks = compute_ticks(*((min(0.0, low), max(0.6, high)) if healthy else (low, high)), 3)
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
        max_gap = max(1, math.ceil(2 * len(values) / _MAX_POINTS))
        for segment in split_at_gaps(downsample(points), max_gap=max_gap):
            marker = "o" if len(segment) == 1 else ""
            axes.plot(*zip(*segment, strict=True), color="#0072b2", linewidth=1.6, marker=marker, markersize=2.5)
        return render_svg(figure, f"curve-{name}", describe_curve(title, values))


def describe_curve(title: str, values: Sequence[float | None]) -> str:
    """Return the shape of a curve as a sentence."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    text = (
        f"{title}: {format_number(known[0])} at first, {format_number(known[-1])} at last, "
        f"between {format_number(min(known))} and {format_number(max(known))}, {len(known)} values"
    )
    return text + (f", {len(values) - len(known)} steps without a value" if len(known) < len(values) else "")


def downsample(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the lowest and the highest point of each segment, and both ends."""
    if len(points) <= _MAX_POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / _MAX_POINTS)
    selected = {points[0], points[-1]}
    for start in range(0, len(points), size):
        segment = points[start : start + size]
        selected |= {min(segment, key=lambda point: point[1]), max(segment, key=lambda point: point[1])}
    return sorted(selected)


def split_at_gaps(points: Sequence[tuple[int, float]], *, max_gap: int) -> list[list[tuple[int, float]]]:
    """Split a curve where two points are more than `max_gap` steps apart."""
    segments: list[list[tuple[int, float]]] = []
    for point in points:
        if not segments or point[0] - segments[-1][-1][0] > max_gap:
            segments.append([])
        segments[-1].append(point)
    return segments


def _is_fraction(metric: str, models: ValuesByModel) -> bool:
    if metric in METRIC_CATALOG:
        return (METRIC_CATALOG[metric].low, METRIC_CATALOG[metric].high) == (0, 1)
    values = [values[metric].value for values in models.values() if metric in values]
    return all(value is None or 0 <= value <= 1 for value in values)


def _get_axis(metric: str, models: ValuesByModel) -> tuple[str, float | None]:
    """Return what metrics must have in common to share an axis."""
    entry = METRIC_CATALOG.get(metric)
    if not _is_fraction(metric, models):
        return metric, None
    unit = entry.unit if entry else "share"
    return "share" if unit == "probability" else unit, entry.target if entry else None


def _draw_bars(name: str, metrics: Sequence[str], models: ValuesByModel, styles: Mapping[str, MarkerStyle]) -> Markup:
    rows = [
        (metric, [model for model in models if metric in models[model] and models[model][metric].value is not None])
        for metric in metrics
    ]
    height = sum(_TITLE + _BAR_ROW * len(measured) + _GAP for _, measured in rows) + 16
    low, high = _get_range(metrics, models)
    left = 12 + 5.8 * max(len(shorten(model, _MAX_NAME_CHARS)) for _, measured in rows for model in measured)
    descriptions = []
    with apply_chart_settings():
        figure = make_figure(height)
        axes = add_plot_axes(figure, left, 0, 56, 16)
        ticks = compute_ticks(low, high, 4)
        axes.set(xlim=(min(low, ticks[0]), max(high, ticks[-1])), ylim=(height - 16, 0), yticks=())
        axes.set_xticks(ticks, [format_number(tick) for tick in ticks])
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        target = METRIC_CATALOG[metrics[0]].target if metrics[0] in METRIC_CATALOG else None
        if target is not None:
            axes.axvline(target, color=SOFT, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
        y = 0.0
        for metric, measured in rows:
            title = get_metric_title(metric)
            add_label(axes, title, (0, y + 13), (6 - left, 0), **get_heading_style(title))
            y += _TITLE
            for model in measured:
                _draw_bar(axes, model, models[model][metric], styles[model], y + _BAR_ROW / 2)
                y += _BAR_ROW
            y += _GAP
            values = [f"{model} {format_number(models[model][metric].value or 0)}" for model in measured]
            descriptions.append(f"{title}: {', '.join(values)}")
        label = f"{'; '.join(descriptions)}. The table below has the same numbers with their intervals"
        return render_svg(figure, name, label)


def _get_range(metrics: Sequence[str], models: ValuesByModel) -> tuple[float, float]:
    if len(metrics) > 1 or _is_fraction(metrics[0], models):
        return 0.0, 1.0
    values = [values[metrics[0]] for values in models.values() if metrics[0] in values]
    ends = [end for value in values if value.value is not None for end in (value.value, *(value.interval or ()))]
    return min(0.0, *ends), max(0.0, *ends)


def _draw_bar(axes: "Axes", model: str, value: MetricValue, style: MarkerStyle, y: float) -> None:
    assert value.value is not None
    axes.barh(y, value.value, _BAR, facecolor=style.fill, edgecolor=style.edge, hatch=style.hatch, linewidth=0.9)
    add_label(axes, shorten(model, _MAX_NAME_CHARS), (0, y), (-6, 0), ha="right", va="center_baseline", color=SOFT)
    if value.interval:
        _draw_interval(axes, value.value, value.interval, y)
    add_label(axes, format_number(value.value), (1, y), (5, 0), va="center_baseline")


def _draw_interval(axes: "Axes", value: float, interval: tuple[float, float], y: float, *, marker: str = "") -> None:
    """Draw an interval dark on a light halo, so that it is visible on any bar."""
    axes.plot(interval, (y, y), color=PAPER, linewidth=3.6, solid_capstyle="butt", zorder=3)
    axes.plot(interval, (y, y), color=INK, linewidth=1.3, marker="|", markersize=6, markeredgewidth=1.3, zorder=4)
    if marker:
        axes.plot([value], [y], marker=marker, markersize=6, color="#0072b2", markeredgecolor=PAPER, zorder=5)
