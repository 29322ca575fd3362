"""The charts: text stays text, nothing is hidden, equal numbers give equal bytes, every model is distinguishable."""

import itertools
import re
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pytest

from soul_core.rendering.attack_chart import AttackEffect, draw_attack_chart
from soul_core.rendering.charts import downsample, draw_bar_charts, draw_criterion_chart, draw_curve, split_at_gaps
from soul_core.rendering.distribution_chart import ModelDistribution, draw_distribution_chart
from soul_core.rendering.scatter_chart import ScatterChart, ScatterPoint, draw_scatter_chart
from soul_core.rendering.svg import (
    add_plot_axes,
    apply_chart_settings,
    assign_marker_styles,
    compute_ticks,
    make_figure,
    render_svg,
    shorten,
)
from soul_core.rendering.tables import CriterionRow
from soul_core.report import CriterionResult, MetricValue, Verdict
from soul_core.spec import Criterion

MODELS = ["base", "unlearned", "retrained", "npo", "grad_diff", "simnpo"]
STYLES = assign_marker_styles(MODELS, "unlearned")


def share(value: float, *, spread: float = 0.05) -> MetricValue:
    return MetricValue(value=value, interval=(value - spread, value + spread), count=9)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("text")]


def forget_bars() -> str:
    models = {model: {"probability": share(0.1 * i)} for i, model in enumerate(MODELS, start=1)}
    (chart,) = draw_bar_charts("forget", models, STYLES)
    return chart


def test_equal_numbers_give_equal_bytes_whatever_the_process_has_set() -> None:
    first = forget_bars()
    with mpl.rc_context({"svg.fonttype": "path", "font.size": 30, "svg.hashsalt": None, "lines.linewidth": 9}):
        second = forget_bars()
        assert mpl.rcParams["font.size"] == 30
    assert first == second
    assert "<metadata" not in first


def test_every_bar_has_its_name_and_number_as_text() -> None:
    written = texts(forget_bars())
    assert [name for name in written if name in MODELS] == MODELS
    assert {f"{0.1 * i:.3g}" for i in range(1, 7)} <= set(written)


def test_models_differ_by_hatch_and_marker_in_addition_to_color() -> None:
    assert len({style.hatch for style in STYLES.values()}) == len(MODELS)
    assert len({style.marker for style in STYLES.values()}) == len(MODELS)
    assert len({style.edge for style in STYLES.values()}) == len(MODELS)


@pytest.mark.parametrize("color", sorted({style.edge for style in STYLES.values()}))
def test_outlines_have_contrast_on_white_paper(color: str) -> None:
    def linear(part: str) -> float:
        value = int(part, 16) / 255
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(color[i : i + 2]) for i in (1, 3, 5))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    assert 1.05 / (luminance + 0.05) >= 4.5  # Source: WCAG 2.2, contrast ratio


def test_text_that_looks_like_markup_or_mathematics_stays_text() -> None:
    name = '<b>$\\frac{1}{2}$&"'
    (chart,) = draw_bar_charts("forget", {name: {"probability": share(0.5)}}, {name: STYLES["npo"]})
    assert "<b>" not in chart
    assert shorten(name, 16) in texts(chart)


def test_two_charts_share_no_id() -> None:
    models = {"base": {"probability": share(0.5)}}
    charts = [draw_bar_charts(name, models, STYLES)[0] for name in ("forget", "retain")]
    ids = [set(re.findall(r' id="([^"]+)"', chart)) for chart in charts]
    assert ids[0]
    assert not ids[0] & ids[1]
    for chart, own in zip(charts, ids, strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", chart)) <= own


def test_metrics_of_other_units_have_a_chart_of_their_own() -> None:
    models = {"base": {"probability": share(0.5), "perplexity": share(30.0), "mia_loss": share(0.9), "own": share(0.2)}}
    charts = draw_bar_charts("forget", models, STYLES)
    assert [sum("probability" in text or text == "own" for text in texts(chart)) for chart in charts] == [2, 0, 0]
    assert "Perplexity" in texts(charts[1])


def test_a_curve_leaves_gaps_and_describes_its_numbers() -> None:
    chart = draw_curve("loss", "Loss", [3.0, 2.0, None, 1.0])
    assert chart is not None
    label = ET.fromstring(chart).get("aria-label")
    assert label == "Loss: 3 at first, 1 at last, between 1 and 3, 3 values, 1 steps without a value"
    assert split_at_gaps([(1, 3.0), (2, 2.0), (4, 1.0)], max_gap=1) == [[(1, 3.0), (2, 2.0)], [(4, 1.0)]]
    assert draw_curve("nothing", "Nothing", [None, None]) is None


def test_a_long_curve_is_downsampled_without_losing_its_spike() -> None:
    values: list[tuple[int, float]] = [(step, 1.0) for step in range(1, 50_001)]
    values[31_007] = (31_008, 99.0)
    points = downsample(values)
    assert len(points) < 500
    assert (31_008, 99.0) in points
    assert (points[0], points[-1]) == (values[0], values[-1])


def test_only_the_unclipped_fraction_has_a_healthy_band() -> None:
    charts = [draw_curve(name, name, [0.3, 0.4]) for name in ("unclipped_fraction", "grad_norm")]
    assert ["healthy" in (chart or "") for chart in charts] == [True, False]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.3, 0.31), (-5, 1200), (2e-5, 2e-5), (0, 0)])
def test_ticks_are_few_and_cover_the_range(low: float, high: float) -> None:
    ticks = compute_ticks(low, high, 4)
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= low
    assert ticks[-1] >= high


def test_the_chart_of_a_criterion_describes_bound_value_and_outcome() -> None:
    criterion = Criterion(set="forget", metric="probability", at_most=0.25, relative_to_base=True)
    result = CriterionResult(
        criterion=criterion, outcome=Verdict.PASSED, value=0.05, interval=(0.03, 0.07), bound=0.1, reason=""
    )
    chart = draw_criterion_chart("b", CriterionRow(result, 0.125, (0.075, 0.175), 0.25, 0.4))
    assert chart is not None
    label = ET.fromstring(chart).get("aria-label")
    assert label == "0.125 times the base model's, interval 0.075 to 0.175; bound: at most 0.25; passed"
    assert texts(chart) == ["≤ 0.25×"]
    assert draw_criterion_chart("b", CriterionRow(result, None, None, None, None)) is None


def test_names_in_a_scatter_chart_do_not_cover_each_other() -> None:
    crowd = tuple(ScatterPoint(model, 0.9 + 0.001 * i, 0.8) for i, model in enumerate(MODELS))
    chart = draw_scatter_chart(
        "p", ScatterChart("t", crowd, "x", "y", ""), STYLES, start="base", end="unlearned", goal="retrained"
    )
    places = [
        (float(element.get("x", 0)), float(element.get("y", 0)))
        for element in ET.fromstring(chart).iter("text")
        if element.text in MODELS
    ]
    assert len(places) == len(MODELS)
    for (x0, y0), (x1, y1) in itertools.combinations(places, 2):
        assert abs(y1 - y0) >= 10 or abs(x1 - x0) > 30


def test_p_values_too_small_for_any_axis_are_drawn() -> None:
    scatter = ScatterChart(
        "t", (ScatterPoint("base", 0.0, 0.6), ScatterPoint("retrained", 1.0, 0.6)), "p", "u", "", is_p_value=True
    )
    assert "1e-300" in " ".join(texts(draw_scatter_chart("p", scatter, STYLES, start="", end="", goal="retrained")))


@pytest.mark.parametrize("values", [(0.5,), (0.0, 0.0), (1e-9, 4.0, 900.0), (-3.0, 2.0)])
def test_any_values_make_a_distribution(values: tuple[float, ...]) -> None:
    chart = draw_distribution_chart("s", "Scores", [ModelDistribution("base", values, values, "AUC 0.5")], STYLES)
    assert f"{len(values)} rows" in (ET.fromstring(chart).get("aria-label") or "")


def test_the_chart_of_an_attack_shows_every_model() -> None:
    chart = draw_attack_chart(
        "a",
        "Recall",
        {"Relearning": [AttackEffect("unlearned", 0.1, 0.4, (0.3, 0.5)), AttackEffect("npo", 0.2, 0.2)]},
        STYLES,
        base_value=0.9,
    )
    label = ET.fromstring(chart).get("aria-label") or ""
    assert "Relearning, unlearned: 0.1 without, 0.4 under" in label
    assert {"Relearning", "unlearned", "npo", "0.4", "0.2"} <= set(texts(chart))


def test_colors_that_look_like_ids_are_unchanged() -> None:
    with apply_chart_settings():
        figure = make_figure(20)
        add_plot_axes(figure, 1, 1, 1, 1).axhspan(0, 1, color="#abcdef")
        assert "#abcdef" in render_svg(figure, "x", "y")
