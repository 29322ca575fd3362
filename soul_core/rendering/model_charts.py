"""Charts that set models against each other: the plane of forgetting and utility, rows as distributions, attacks.

Torch-free.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from soul_core.catalogue import number
from soul_core.rendering.svg import (
    GRID,
    HALO,
    INK,
    PAPER,
    SOFT,
    TEXT,
    WIDTH,
    Look,
    beside,
    canvas,
    drawing,
    finish,
    heading,
    nice_ticks,
    plot_area,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Interval = tuple[float, float]
_LETTER, _LINE = 5.6, 12.0
_NUM_BINS = 24
_MOST_LETTERS = 20


@dataclass(frozen=True)
class Point:
    """One model in the plane."""

    model: str
    x: float
    y: float
    x_interval: Interval | None = None
    y_interval: Interval | None = None


@dataclass(frozen=True)
class Plane:
    """Models by how much they forgot and how much they kept."""

    title: str
    points: tuple[Point, ...]
    x_title: str
    y_title: str
    note: str
    is_p_value: bool = False


@dataclass(frozen=True)
class Spread:
    """One model's rows: values of the set in question and, beside them, of rows that no model has seen."""

    model: str
    values: tuple[float, ...]
    others: tuple[float, ...] = ()
    remark: str = ""


@dataclass(frozen=True)
class Blow:
    """One model under one attack: a metric without and with it."""

    model: str
    without: float
    under: float
    interval: Interval | None = None


def plane_chart(name: str, plane: Plane, looks: Mapping[str, Look], *, start: str, end: str, goal: str) -> Markup:
    """Draw the plane. An arrow leads from `start` to `end`; dashed lines go through `goal`, the retrained model."""
    with drawing():
        figure = canvas(286)
        axes = plot_area(figure, 44, 12, 16, 44)
        _axes_of(axes, plane)
        at = {point.model: point for point in plane.points}
        if goal in at:
            for line, where in ((axes.axvline, _along(plane, at[goal].x)), (axes.axhline, at[goal].y)):
                line(where, color=looks[goal].edge, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
        if start in at and end in at:
            axes.annotate(
                "", (_along(plane, at[end].x), at[end].y), (_along(plane, at[start].x), at[start].y),
                arrowprops={"arrowstyle": "->", "color": "#a6b0ba", "shrinkA": 8, "shrinkB": 8, "linewidth": 1.2},
            )  # fmt: skip
        for point in plane.points:
            _draw_point(axes, plane, point, looks[point.model])
        _place_names(axes, plane)
        told = "; ".join(f"{p.model}: {number(p.x)} and {number(p.y)}" for p in plane.points)
        return finish(figure, name, f"{plane.x_title} and {plane.y_title} of each model. {told}")


def spread_chart(name: str, title: str, spreads: Sequence[Spread], looks: Mapping[str, Look]) -> Markup:
    """Draw each model's rows as a histogram over one axis; rows of the other set as an outline, mirrored below it."""
    everything = np.array([v for spread in spreads for v in (*spread.values, *spread.others)], dtype=np.float64)
    log = _wants_log(everything)
    mirrored = any(spread.others for spread in spreads)
    band, head = (62 if mirrored else 44), 15
    height = (band + head) * len(spreads) + 18
    with drawing():
        figure = canvas(height)
        axes = plot_area(figure, 8, 0, 14, 18)
        edges = _edges(everything, log=log)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(height - 18, 0), yticks=())
        ticks = _inside(nice_ticks(edges[0], edges[-1], 4), edges)
        axes.set_xticks(ticks, [number(10**tick if log else tick) for tick in ticks])
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        for i, spread in enumerate(spreads):
            top = i * (band + head) + head
            _draw_spread(axes, spread, looks[spread.model], edges, top, band, log=log)
        told = "; ".join(_in_words(spread) for spread in spreads)
        return finish(figure, name, f"{title}, {'on a logarithmic axis, ' if log else ''}a histogram a model. {told}")


def attack_chart(
    name: str, metric: str, rows: Mapping[str, Sequence[Blow]], looks: Mapping[str, Look], *, before: float | None
) -> Markup:
    """Draw each attack: a line from the value without it (hollow) to the value under it (filled), one a model."""
    height = sum(20 + 15 * len(blows) + 4 for blows in rows.values()) + 18
    told = []
    with drawing():
        figure = canvas(height)
        names = {blow.model for blows in rows.values() for blow in blows}
        left = 14 + 5.8 * max(len(shortened(model, 14)) for model in names)
        axes = plot_area(figure, left, 0, 58, 18)
        high = max([1.0, *(b.under for blows in rows.values() for b in blows)])
        ticks = nice_ticks(0, high, 4)
        axes.set(xlim=(0, max(high, ticks[-1])), ylim=(height - 18, 0), yticks=())
        axes.set_xticks(ticks, [number(tick) for tick in ticks])
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        if before is not None:
            axes.axvline(before, color=SOFT, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
        y = 0.0
        for title, blows in rows.items():
            beside(axes, title, (0, y + 14), (6 - left, 0), **heading(title))
            y += 20
            for blow in blows:
                _draw_blow(axes, blow, looks[blow.model], y + 7)
                y += 15
                told.append(f"{title}, {blow.model}: {number(blow.without)} without, {number(blow.under)} under")
            y += 4
        return finish(figure, name, f"{metric} under attack. {'; '.join(told)}. The table below holds the same numbers")


def _axes_of(axes: "Axes", plane: Plane) -> None:
    xs = [_along(plane, point.x) for point in plane.points]
    if plane.is_p_value:
        low = min(-2.0, *xs)
        axes.set(xlim=(low - 0.06 * -low, 0.06 * -low))
        ticks = [tick for tick in nice_ticks(low, 0, 4) if tick == int(tick)]
        axes.set_xticks(ticks, [f"1e{tick:.0f}" if tick else "1" for tick in ticks])
        axes.axvline(math.log10(0.05), color=SOFT, linewidth=0.9, linestyle=(0, (1, 2)))
    else:
        axes.set(xlim=(min(-0.04, *xs), max(1.04, *xs)), xticks=(0, 0.25, 0.5, 0.75, 1))
        axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", "0.25", "0.5", "0.75", "1"))
    ys = [point.y for point in plane.points]
    axes.set(ylim=(min(-0.04, *ys), max(1.04, *ys)))
    axes.set_yticks((0, 0.25, 0.5, 0.75, 1), ("0", "0.25", "0.5", "0.75", "1"))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_xlabel(plane.x_title + " →", fontsize=TEXT, labelpad=6)
    axes.set_ylabel(plane.y_title + " →", fontsize=TEXT, labelpad=6)


def _along(plane: Plane, x: float) -> float:
    return math.log10(max(x, 1e-300)) if plane.is_p_value else x


def _draw_point(axes: "Axes", plane: Plane, point: Point, look: Look) -> None:
    x = _along(plane, point.x)
    if point.x_interval and not plane.is_p_value:
        axes.plot(point.x_interval, (point.y, point.y), color=look.edge, linewidth=1.1, zorder=2)
    if point.y_interval:
        axes.plot((x, x), point.y_interval, color=look.edge, linewidth=1.1, zorder=2)
    axes.plot(
        [x], [point.y], marker=look.marker, markersize=9, color=look.fill, markeredgecolor=look.edge,
        markeredgewidth=1.3, clip_on=False, zorder=3,
    )  # fmt: skip


def _place_names(axes: "Axes", plane: Plane) -> None:
    """Write each name beside its point, where it meets no other name and no other point."""
    to_pixels = axes.transData.transform
    spots = [tuple(to_pixels((_along(plane, p.x), p.y))) for p in plane.points]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    for point, (x, y) in zip(plane.points, spots, strict=True):
        name = shortened(point.model, _MOST_LETTERS)
        wide = _LETTER * len(name)
        places = [(10 if side > 0 else -10 - wide, rise) for rise in (8, -16, -4, 20, -28) for side in (-1, 1)]
        boxes = [(x + dx, y + dy, x + dx + wide, y + dy + _LINE) for dx, dy in places]
        free = [box for box in boxes if box[0] > 40 and box[2] < WIDTH - 4 and not any(_meet(box, t) for t in taken)]
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
    axes: "Axes", spread: Spread, look: Look, edges: Sequence[float], top: float, band: float, *, log: bool
) -> None:
    def shares(values: Sequence[float]) -> list[float]:
        scaled = np.log10(values) if log else np.asarray(values)
        counts, _ = np.histogram(scaled, bins=np.asarray(edges))
        return [float(count) / max(1, len(values)) for count in counts]

    up, down = shares(spread.values), shares(spread.others)
    room = 0.58 * band if spread.others else band - 2
    tallest = max(*up, *down, 1e-9)
    ground = top + room + 1
    axes.stairs(
        [ground - room * s / tallest for s in up], edges, baseline=ground, fill=True, facecolor=look.fill,
        edgecolor=look.edge, hatch=look.hatch, linewidth=0.9,
    )  # fmt: skip
    if spread.others:
        low = [ground + (band - room - 3) * s / tallest for s in down]
        axes.stairs(low, edges, baseline=ground, fill=True, facecolor=PAPER, edgecolor=SOFT, linewidth=1)
    axes.plot((edges[0], edges[-1]), (ground, ground), color=SOFT, linewidth=0.8)
    centre = float(np.median(np.log10(spread.values) if log else spread.values))
    axes.plot([centre], [ground], marker="^", markersize=6, color=INK, markeredgecolor=PAPER, zorder=4, clip_on=False)
    title = shortened(spread.model, _MOST_LETTERS) + (f": {spread.remark}" if spread.remark else "")
    beside(axes, title, (0, top - 3), (0, 0), fontsize=TEXT, va="baseline")


def _in_words(spread: Spread) -> str:
    low, middle, high = (number(float(q)) for q in np.quantile(spread.values, (0.25, 0.5, 0.75)))
    text = f"{spread.model}: median {middle}, middle half {low} to {high}, {len(spread.values)} rows"
    if spread.others:
        text += f"; rows never seen: median {number(float(np.median(spread.others)))}, {len(spread.others)} rows"
    return text + (f", {spread.remark}" if spread.remark else "")


def _draw_blow(axes: "Axes", blow: Blow, look: Look, y: float) -> None:
    axes.plot((blow.without, blow.under), (y, y), color=look.edge, linewidth=2, zorder=2)
    if blow.interval:
        axes.plot(blow.interval, (y, y), color=look.edge, linewidth=0.9, marker="|", markersize=5, zorder=2)
    style: dict[str, Any] = {
        "marker": look.marker,
        "markeredgecolor": look.edge,
        "markeredgewidth": 1.2,
        "clip_on": False,
    }
    axes.plot([blow.without], [y], markersize=5, color=PAPER, zorder=3, **style)
    axes.plot([blow.under], [y], markersize=7, color=look.fill, zorder=3, **style)
    beside(axes, shortened(blow.model, 14), (0, y), (-8, 0), color=SOFT, ha="right", va="center_baseline")
    beside(axes, number(blow.under), (1, y), (7, 0), va="center_baseline")
