"""Charts as geometry: numbers in, coordinates out. `templates/charts.html.j2` draws them as inline SVG. Torch-free."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soul_core.metric_catalogue import CATALOGUE, number
from soul_core.report import MetricValue

_BAR, _GROUP_GAP, _TOP = 16, 14, 6
LABEL_WIDTH, PLOT_WIDTH, VALUE_WIDTH = 170, 360, 190
LINE_WIDTH, LINE_HEIGHT = 300, 130
_LEFT, _RIGHT, _UPPER, _LOWER = 52, 10, 10, 22
_MOST_POINTS = 400


@dataclass(frozen=True)
class Bar:
    """One value of one model: a bar with its interval as a whisker."""

    model: str
    y: float
    width: float
    whisker: tuple[float, float] | None
    text: str


@dataclass(frozen=True)
class BarGroup:
    """One metric, one bar a model."""

    label: str
    y: float
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class BarChart:
    """Metrics that share an axis. `ticks` are (x, text)."""

    groups: tuple[BarGroup, ...]
    ticks: tuple[tuple[float, str], ...]
    width: float
    height: float


@dataclass(frozen=True)
class LineChart:
    """One curve of the run. `paths` are SVG path data, one for each stretch without a gap."""

    title: str
    paths: tuple[str, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    summary: str


def bar_charts(models: Mapping[str, Mapping[str, MetricValue]]) -> list[BarChart]:
    """Draw one set's metrics (model -> metric -> value): those of the range 0 to 1 together, others each alone."""
    names = list(dict.fromkeys(name for values in models.values() for name in values))
    present = [n for n in names if any(m[n].value is not None for m in models.values() if n in m)]
    shares = [n for n in present if n not in CATALOGUE or CATALOGUE[n].high == 1]
    others = [[n] for n in present if n not in shares]
    return [_bar_chart(group, models) for group in ([shares] if shares else []) + others]


def _bar_chart(metrics: Sequence[str], models: Mapping[str, Mapping[str, MetricValue]]) -> BarChart:
    values = [m[n] for m in models.values() for n in metrics if n in m]
    top = max([max(v.value or 0, v.interval[1] if v.interval else 0) for v in values], default=1.0)
    if all(n in CATALOGUE and CATALOGUE[n].high == 1 for n in metrics):
        top = 1.0
    ticks = nice_ticks(0, top, 5)
    top = max(ticks[-1], top)
    groups, y = [], float(_TOP)
    for name in metrics:
        bars = []
        start = y
        for model, of_model in models.items():
            if name in of_model and of_model[name].value is not None:
                bars.append(_bar(model, of_model[name], y, top))
                y += _BAR
        label = CATALOGUE[name].title if name in CATALOGUE else name
        groups.append(BarGroup(label, start + (y - start) / 2, tuple(bars)))
        y += _GROUP_GAP
    at = [(LABEL_WIDTH + PLOT_WIDTH * tick / top, number(tick)) for tick in ticks]
    return BarChart(tuple(groups), tuple(at), LABEL_WIDTH + PLOT_WIDTH + VALUE_WIDTH, y + 18)


def _bar(model: str, value: MetricValue, y: float, top: float) -> Bar:
    assert value.value is not None
    scale = PLOT_WIDTH / top
    whisker = None
    text = number(value.value)
    if value.interval:
        low, high = value.interval
        whisker = (LABEL_WIDTH + low * scale, LABEL_WIDTH + high * scale)
        text += f" [{number(low)}, {number(high)}]"
    return Bar(model, y, max(value.value * scale, 0.75), whisker, text)


def line_chart(title: str, values: Sequence[float | None]) -> LineChart | None:
    """Draw one value a step; None leaves a gap. Long runs keep the extremes of each stretch, so no spike is hidden."""
    points = [(step, v) for step, v in enumerate(values, start=1) if v is not None and math.isfinite(v)]
    if not points:
        return None
    low, high = min(v for _, v in points), max(v for _, v in points)
    ticks = nice_ticks(low, high, 3)
    bottom, top = min(low, ticks[0]), max(high, ticks[-1])
    steps = max(len(values), 2)

    def x(step: int) -> float:
        return _LEFT + (LINE_WIDTH - _LEFT - _RIGHT) * (step - 1) / (steps - 1)

    def y(value: float) -> float:
        return LINE_HEIGHT - _LOWER - (LINE_HEIGHT - _UPPER - _LOWER) * (value - bottom) / (top - bottom)

    paths = []
    for stretch in _stretches(_thinned(points), gap=max(1, math.ceil(2 * len(values) / _MOST_POINTS))):
        path = "M" + " L".join(f"{x(s):.1f} {y(v):.1f}" for s, v in stretch)
        paths.append(path + " h0.1" if len(stretch) == 1 else path)
    first, last = points[0][1], points[-1][1]
    return LineChart(
        title=title,
        paths=tuple(paths),
        x_ticks=((x(1), "1"), (x(len(values)), str(len(values)))) if len(values) > 1 else ((x(1), "1"),),
        y_ticks=tuple((y(tick), number(tick)) for tick in ticks),
        summary=f"{title}: {number(first)} at first, {number(last)} at last, "
        f"between {number(low)} and {number(high)}, {len(points)} values",
    )


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers that cover [low, high]: about `most` of them."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    if len(points) <= _MOST_POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / _MOST_POINTS)
    kept = set()
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        kept |= {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
    return sorted(kept | {points[0], points[-1]})


def _stretches(points: Sequence[tuple[int, float]], *, gap: int) -> list[list[tuple[int, float]]]:
    stretches: list[list[tuple[int, float]]] = []
    for point in points:
        if not stretches or point[0] - stretches[-1][-1][0] > gap:
            stretches.append([])
        stretches[-1].append(point)
    return stretches
