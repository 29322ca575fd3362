"""A value of each row as a histogram, one for each model. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from soul_core.formatting import format_number
from soul_core.rendering.svg import (
    GRID,
    INK,
    PAPER,
    SOFT,
    TEXT_SIZE,
    MarkerStyle,
    add_label,
    add_plot_axes,
    apply_chart_settings,
    compute_ticks,
    make_figure,
    render_svg,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NUM_BINS = 24
_MAX_NAME_CHARS = 20
#: Pixels above each histogram, for its title.
_HEAD = 15


@dataclass(frozen=True)
class ModelDistribution:
    """One model's value of each row of a data set and, for comparison, of rows that no model has seen."""

    model: str
    values: tuple[float, ...]
    holdout_values: tuple[float, ...] = ()
    remark: str = ""


def draw_distribution_chart(
    name: str, title: str, distributions: Sequence[ModelDistribution], styles: Mapping[str, MarkerStyle]
) -> Markup:
    """Draw a histogram for each model on one axis; unseen rows are an outline, mirrored below it."""
    all_values = np.array(
        [value for own in distributions for value in (*own.values, *own.holdout_values)], dtype=np.float64
    )
    is_log = bool((all_values > 0).all() and all_values.max() > 50 * all_values.min() and all_values.max() > 1)
    has_holdout = any(distribution.holdout_values for distribution in distributions)
    band = 62 if has_holdout else 44
    height = (band + _HEAD) * len(distributions) + 18
    with apply_chart_settings():
        figure = make_figure(height)
        axes = add_plot_axes(figure, 8, 0, 14, 18)
        edges = _compute_edges(np.log10(all_values) if is_log else all_values, is_log=is_log)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(height - 18, 0), yticks=())
        slack = 1e-9 * (edges[-1] - edges[0])
        ticks = [
            tick for tick in compute_ticks(edges[0], edges[-1], 5) if edges[0] - slack <= tick <= edges[-1] + slack
        ]
        axes.set_xticks(ticks, [format_number(10**tick if is_log else tick) for tick in ticks])
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        for i, distribution in enumerate(distributions):
            top = i * (band + _HEAD) + _HEAD
            _draw_histogram(axes, distribution, styles[distribution.model], edges, top, band, is_log=is_log)
        descriptions = "; ".join(map(describe_distribution, distributions))
        scale = "on a logarithmic axis, " if is_log else ""
        return render_svg(figure, name, f"{title}, {scale}one histogram per model. {descriptions}")


def describe_distribution(distribution: ModelDistribution) -> str:
    """Return the shape of a distribution as a sentence."""
    low, middle, high = (format_number(float(q)) for q in np.quantile(distribution.values, (0.25, 0.5, 0.75)))
    text = f"{distribution.model}: median {middle}, middle half {low} to {high}, {len(distribution.values)} rows"
    if distribution.holdout_values:
        median = format_number(float(np.median(distribution.holdout_values)))
        text += f"; unseen rows: median {median}, {len(distribution.holdout_values)} rows"
    return text + (f", {distribution.remark}" if distribution.remark else "")


def _compute_edges(values: np.ndarray[tuple[int], np.dtype[np.float64]], *, is_log: bool) -> list[float]:
    low, high = float(values.min()), float(values.max())
    if not is_log and low >= 0 and 0.5 < high <= 1:
        low, high = 0.0, 1.0
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return [float(edge) for edge in np.linspace(low, high, _NUM_BINS + 1)]


def _draw_histogram(
    axes: "Axes",
    distribution: ModelDistribution,
    style: MarkerStyle,
    edges: Sequence[float],
    top: float,
    band: float,
    *,
    is_log: bool,
) -> None:
    def count_fractions(values: Sequence[float]) -> list[float]:
        counts, _ = np.histogram(np.log10(values) if is_log else np.asarray(values), bins=np.asarray(edges))
        return [float(count) / max(1, len(values)) for count in counts]

    own, holdout = count_fractions(distribution.values), count_fractions(distribution.holdout_values)
    own_height = 0.58 * band if distribution.holdout_values else band - 2
    tallest = max(*own, *holdout, 1e-9)
    ground = top + own_height + 1
    axes.stairs(
        [ground - own_height * fraction / tallest for fraction in own], edges, baseline=ground, fill=True,
        facecolor=style.fill, edgecolor=style.edge, hatch=style.hatch, linewidth=0.9,
    )  # fmt: skip
    if distribution.holdout_values:
        depths = [ground + (band - own_height - 3) * fraction / tallest for fraction in holdout]
        axes.stairs(depths, edges, baseline=ground, fill=True, facecolor=PAPER, edgecolor=SOFT, linewidth=1)
    axes.plot((edges[0], edges[-1]), (ground, ground), color=SOFT, linewidth=0.8)
    median = float(np.median(np.log10(distribution.values) if is_log else distribution.values))
    axes.plot([median], [ground], marker="^", markersize=6, color=INK, markeredgecolor=PAPER, zorder=4, clip_on=False)
    title = shorten(distribution.model, _MAX_NAME_CHARS) + (f": {distribution.remark}" if distribution.remark else "")
    add_label(axes, title, (0, top - 3), (0, 0), fontsize=TEXT_SIZE, va="baseline")
