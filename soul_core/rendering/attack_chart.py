"""What each attack does to a metric of each model. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from soul_core.formatting import format_number
from soul_core.rendering.svg import (
    GRID,
    PAPER,
    SOFT,
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Heights in pixels: the title of an attack, a model, the gap after an attack.
_TITLE, _ROW, _GAP = 20, 15, 4
_MAX_NAME_CHARS = 14


@dataclass(frozen=True)
class AttackEffect:
    """A metric of one model without (baseline) and under (attacked) one attack."""

    model: str
    baseline: float
    attacked: float
    interval: tuple[float, float] | None = None


def draw_attack_chart(
    name: str,
    metric: str,
    effects_by_attack: Mapping[str, Sequence[AttackEffect]],
    styles: Mapping[str, MarkerStyle],
    *,
    base_value: float | None,
) -> Markup:
    """Draw a line for each model from the value without the attack (hollow) to the value under it (filled)."""
    height = sum(_TITLE + _ROW * len(effects) + _GAP for effects in effects_by_attack.values()) + 18
    all_effects = [effect for effects in effects_by_attack.values() for effect in effects]
    left = 14 + 5.8 * max(len(shorten(effect.model, _MAX_NAME_CHARS)) for effect in all_effects)
    high = max([1.0, *(effect.attacked for effect in all_effects)])
    descriptions = []
    with apply_chart_settings():
        figure = make_figure(height)
        axes = add_plot_axes(figure, left, 0, 58, 18)
        ticks = compute_ticks(0, high, 4)
        axes.set(xlim=(0, max(high, ticks[-1])), ylim=(height - 18, 0), yticks=())
        axes.set_xticks(ticks, [format_number(tick) for tick in ticks])
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        if base_value is not None:
            axes.axvline(base_value, color=SOFT, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
        y = 0.0
        for title, effects in effects_by_attack.items():
            add_label(axes, title, (0, y + 14), (6 - left, 0), **get_heading_style(title))
            y += _TITLE
            for effect in effects:
                _draw_effect(axes, effect, styles[effect.model], y + 7)
                y += _ROW
                values = f"{format_number(effect.baseline)} without, {format_number(effect.attacked)} under"
                descriptions.append(f"{title}, {effect.model}: {values}")
            y += _GAP
        label = f"{metric} under attack. {'; '.join(descriptions)}. The table below has the same numbers"
        return render_svg(figure, name, label)


def _draw_effect(axes: "Axes", effect: AttackEffect, style: MarkerStyle, y: float) -> None:
    axes.plot((effect.baseline, effect.attacked), (y, y), color=style.edge, linewidth=2, zorder=2)
    if effect.interval:
        axes.plot(effect.interval, (y, y), color=style.edge, linewidth=0.9, marker="|", markersize=5, zorder=2)
    marker: dict[str, Any] = {
        "marker": style.marker,
        "markeredgecolor": style.edge,
        "markeredgewidth": 1.2,
        "clip_on": False,
    }
    axes.plot([effect.baseline], [y], markersize=5, color=PAPER, zorder=3, **marker)
    axes.plot([effect.attacked], [y], markersize=7, color=style.fill, zorder=3, **marker)
    name = shorten(effect.model, _MAX_NAME_CHARS)
    add_label(axes, name, (0, y), (-8, 0), color=SOFT, ha="right", va="center_baseline")
    add_label(axes, format_number(effect.attacked), (1, y), (7, 0), va="center_baseline")
