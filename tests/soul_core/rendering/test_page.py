"""The page: self-contained, safe with hostile answers, no claim beyond the numbers, for every kind of job."""

import itertools
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from soul_core.formatting import format_percent
from soul_core.rendering.answer_diff import compare_answers, diff_answers
from soul_core.rendering.attack_tables import (
    choose_main_metric,
    compute_recovered_fraction,
    format_recovered_fraction,
)
from soul_core.rendering.labels import HEADLINES
from soul_core.rendering.page import render_page
from soul_core.rendering.tables import flatten_settings, list_missing_metrics, make_criterion_rows, make_highlights
from soul_core.report import AnswerSample, Report
from soul_core.spec import JobKind
from tests.fixtures.sample_pages import sample_page
from tests.fixtures.sample_report import sample_report

VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202egnp.exe\x1b[2J"
KINDS = tuple(JobKind)


class Outline(HTMLParser):
    """Checks that tags nest, and collects tags and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.bare_charts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.bare_charts += tag == "svg" and not {"role", "aria-label"} <= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"


@pytest.fixture(scope="module")
def pages() -> dict[JobKind, str]:
    return {kind: sample_page(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def page(pages: dict[JobKind, str]) -> str:
    return pages["unlearn"]


@pytest.fixture(scope="module")
def report() -> Report:
    return sample_report(rich=True)


def words(page: str) -> str:
    """Return the text of a page without styles, tags and charts."""
    bare = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    return " ".join(re.sub("<[^>]+>", " ", bare).split())


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_well_nested_and_loads_nothing(pages: dict[JobKind, str], kind: JobKind) -> None:
    outline = Outline(pages[kind])
    assert outline.open == []
    assert not {"script", "link", "iframe", "object", "img"} & set(outline.tags)
    assert all(value and value.startswith("#") for name, value in outline.attributes if name in {"href", "src"})
    assert not re.search(r"https?:|@import|url\((?!#)", pages[kind])
    assert "default-src 'none'" in pages[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_id_is_unique_and_every_link_and_paint_has_its_target(pages: dict[JobKind, str], kind: JobKind) -> None:
    outline = Outline(pages[kind])
    ids = [value for name, value in outline.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    pointed = {value[1:] for name, value in outline.attributes if name == "href" and value}
    pointed |= {value for name, value in outline.attributes if name == "aria-labelledby" and value}
    assert pointed | set(re.findall(r"url\(#([^)]+)\)", pages[kind])) <= set(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_heading_levels_do_not_skip_and_every_chart_has_a_label(pages: dict[JobKind, str], kind: JobKind) -> None:
    outline = Outline(pages[kind])
    levels = [int(tag[1]) for tag in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert outline.bare_charts == 0


def test_equal_reports_give_equal_bytes() -> None:
    report = sample_report(kind="finetune")
    assert render_page(report) == render_page(Report.model_validate_json(report.model_dump_json()))


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (sample_report(), "passed"),
        (sample_report(forget=0.8), "failed"),
        (sample_report(forget=0.18), "inconclusive"),
    ],
)
def test_the_verdict_is_on_top_with_its_reason(report: Report, verdict: str) -> None:
    assert report.verdict == verdict
    run = report.run.model_copy(update={"curves": {}})
    top = render_page(report.model_copy(update={"attacks": (), "run": run})).partition("</header>")[0]
    assert HEADLINES[report.verdict] in top
    assert "24 forget + 24 retain" in top
    assert "95%" in top


def test_an_evaluation_without_criteria_gives_no_verdict(pages: dict[JobKind, str]) -> None:
    assert "No verdict: this evaluation has no criteria" in words(pages["evaluate"])
    assert "before and after" not in words(pages["evaluate"].split("</header>")[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_claim_no_more_than_was_measured(pages: dict[JobKind, str], kind: JobKind) -> None:
    text = re.sub("<[^>]+>", " ", pages[kind]).lower()
    assert not re.search(r"\b(erased|compliant|compliance|guaranteed|guarantees|certified|deleted|proven)\b", text)


def test_hostile_answers_are_shown_as_text() -> None:
    report = sample_report()
    hostile = report.model_copy(
        update={
            "examples": (
                AnswerSample(
                    set="forget", row=1, prompt=HOSTILE, expected=HOSTILE, answers={"base": HOSTILE, "unlearned": "x"}
                ),
            ),
            "verdict_reason": HOSTILE,
            "caveats": (HOSTILE,),
            "attacks": tuple(attack.model_copy(update={"notes": (HOSTILE,)}) for attack in report.attacks[:1]),
            "models": report.models | {HOSTILE: report.models["base"]},
        }
    )
    page = render_page(hostile)
    outline = Outline(page)
    assert not {"script", "img"} & set(outline.tags)
    assert not any(name.startswith("on") for name, _ in outline.attributes)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\u202e" not in page
    assert "\x1b" not in page


def test_text_before_an_answer_is_folded_next_to_it() -> None:
    report = sample_report()
    thinking = report.examples[0].model_copy(
        update={"answers": {"base": "Paris.", "unlearned": ""}, "preambles": {"unlearned": "<think>Is it <b>France"}}
    )

    page = render_page(report.model_copy(update={"examples": (thinking,)}))

    folded = "<summary>text before the answer, not measured</summary>"
    assert f'(empty answer)</span><details>{folded}<span dir="auto">&lt;think&gt;Is it &lt;b&gt;France</span>' in page
    assert page.count(folded) == 1


def test_every_measured_value_is_in_a_table_in_addition_to_a_chart(report: Report, page: str) -> None:
    text = words(page)
    for model in report.models.values():
        for values in model.sets.values():
            for value in values.values():
                assert value.value is None or f"{value.value:.3g}" in text or f"{value.value:.1e}" in text


@pytest.mark.parametrize("part", ["bound", "measured", "interval", "outcome"])
def test_each_criterion_shows_its_bound_value_interval_and_outcome(report: Report, page: str, part: str) -> None:
    table = words(page.split('id="criteria"')[1].partition("</table>")[0])
    for row in make_criterion_rows(report):
        assert row.value is not None
        assert row.interval
        expected = {
            "bound": f"{'at most' if row.result.criterion.at_most else 'at least'} {row.bound:.3g} times",
            "measured": f"{row.value:.3g} times",
            "interval": f"{row.interval[0]:.3g} to {row.interval[1]:.3g} times",
            "outcome": row.result.outcome,
        }
        assert expected[part] in table


def test_what_was_not_measured_is_listed_with_its_reason(page: str) -> None:
    missing = {(gap.metric, gap.where, gap.reason) for gap in list_missing_metrics(sample_report(perplexity=None))}
    assert ("Perplexity", "on the general, general_own sets", "no general set was given") in missing
    assert (
        "Perplexity on the forget, retain, retain_held_out sets: the set has prompts; perplexity is of plain text."
        in words(page)
    )
    assert "Fine-tuning on unrelated text (general set) was not run: no general set was given." in words(page)


def test_an_attack_shows_the_fraction_that_it_recovers(report: Report, page: str) -> None:
    attack = next(attack for attack in report.attacks if attack.label == "relearn")
    fraction = compute_recovered_fraction(attack, "unlearned", "forget", "keyword_recall")
    attacked, baseline, base = (
        where[model]["forget"]["keyword_recall"].value
        for where, model in ((attack.attacked, "unlearned"), (attack.baseline, "unlearned"), (attack.baseline, "base"))
    )
    assert attacked is not None
    assert baseline is not None
    assert base is not None
    assert fraction == pytest.approx((attacked - baseline) / (base - baseline))
    assert f"{format_percent(fraction)} recovered" in words(page)
    (strongest,) = (highlight for highlight in make_highlights(report) if "strongest" in highlight.title)
    judged_by_criteria = compute_recovered_fraction(attack, "unlearned", "forget", "probability")
    assert judged_by_criteria is not None
    assert strongest.after == format_percent(max(fraction, judged_by_criteria))
    assert compute_recovered_fraction(attack, "base", "forget", "keyword_recall") is None


def test_no_fraction_is_recovered_where_the_difference_may_be_chance() -> None:
    attack = sample_report(rich=True).attacks[0]
    base = attack.baseline["base"]
    known = base["forget"]["keyword_recall"]
    assert known.value is not None
    assert known.interval is not None
    slightly_less = known.model_copy(update={"value": known.value - 0.01, "interval": (0.5, known.interval[0] + 0.01)})
    for left in (known, slightly_less):
        baseline = attack.baseline | {"unlearned": {"forget": base["forget"] | {"keyword_recall": left}}}
        untouched = attack.model_copy(update={"baseline": baseline})
        assert compute_recovered_fraction(untouched, "unlearned", "forget", "keyword_recall") is None


def test_a_metric_on_which_no_model_is_notable_does_not_sum_up_a_set() -> None:
    report = sample_report(rich=True)
    assert choose_main_metric(report, "forget") == "keyword_recall"
    faint = {
        name: model.model_copy(
            update={
                "sets": {
                    "forget": model.sets["forget"]
                    | {"keyword_recall": model.sets["forget"]["keyword_recall"].model_copy(update={"value": 0.1})}
                }
            }
        )
        for name, model in report.models.items()
    }
    assert choose_main_metric(report.model_copy(update={"models": faint}), "forget") == "probability"


def test_a_metric_missing_for_one_model_names_the_model() -> None:
    report = sample_report(rich=True)
    gap = report.models["base"].sets["forget"]["perplexity"]
    lacking = report.models["retrained"].sets["forget"] | {"rouge_l": gap}
    sets = report.models["retrained"].sets | {"forget": lacking}
    models = report.models | {"retrained": report.models["retrained"].model_copy(update={"sets": sets})}
    gaps = {gap.metric: gap.where for gap in list_missing_metrics(report.model_copy(update={"models": models}))}
    assert gaps == {
        "Perplexity": "on the forget, retain, retain_held_out sets",
        "ROUGE-L recall": "on the forget set for retrained",
    }


def test_recovered_fractions_are_percentages() -> None:
    assert [format_recovered_fraction(fraction) for fraction in (-0.4, 0.0, 0.004, 0.05, 0.59)] == [
        "nothing recovered",
        "nothing recovered",
        "less than 1% recovered",
        "5% recovered",
        "59% recovered",
    ]


def test_the_variant_of_an_attack_that_reveals_most_is_named(page: str) -> None:
    assert "strongest variant: few_shot" in words(page)
    assert "few_shot (reveals most)" in words(page)


def test_poisoned_rows_are_listed_by_number_without_their_text(page: str) -> None:
    assert "forget row 7 0.725" in words(page)


def test_charts_are_drawn_for_the_kinds_of_job_that_have_their_numbers(pages: dict[JobKind, str]) -> None:
    drawn = {
        kind: set(re.findall(r'id="((?:scatter|distribution|attacks|curve)-?[a-z0-9_]*)-', pages[kind]))
        for kind in KINDS
    }
    assert {"scatter-0", "scatter-1", "distribution-truth", "distribution-min_k", "attacks"} <= drawn["unlearn"]
    assert {"scatter-0", "scatter-1", "distribution-truth", "distribution-min_k", "attacks"} <= drawn["evaluate"]
    assert {"curve-loss", "curve-unclipped_fraction"} <= drawn["unlearn"] & drawn["finetune"]
    assert not any(name.startswith("curve") for name in drawn["evaluate"])
    assert not any(name.startswith(("scatter", "distribution", "attacks")) for name in drawn["finetune"])


def test_an_evaluation_shows_the_answers_of_all_models_to_each_question(pages: dict[JobKind, str]) -> None:
    models = list(sample_report(kind="evaluate", rich=True).models)
    assert len(models) == 5
    for article in pages["evaluate"].split("<article")[1:]:
        assert all(f"{model}</dt>" in article for model in models)


def test_the_page_has_settings_digests_phases_and_the_share_of_training(report: Report, page: str) -> None:
    text = words(page)
    for fact in (report.spec_sha256, report.model.digest, *(data.sha256 for data in report.data), "cd" * 32):
        assert fact in text
    assert "0.00055% of 1.61e+18 (estimate)" in text
    assert "unlearn 1 min 25 s" in text
    assert "optimizer.curvature.beta2 0.99" in text
    assert "seed 0" in text


def test_settings_of_one_or_zero_are_numbers_not_yes_or_no() -> None:
    assert dict(flatten_settings({"a": 1, "b": 0.0, "c": True, "d": None, "e": [{"f": 2}], "g": []})) == {
        "a": "1",
        "b": "0.0",
        "c": "yes",
        "d": "none",
        "e.0.f": "2",
        "g": "none",
    }


def test_differences_between_answers_are_marked_word_by_word() -> None:
    before, after = diff_answers("the capital is Paris.", "the capital is unknown.")
    assert before == [("same", "the capital is "), ("lost", "Paris"), ("same", ".")]
    assert after == [("same", "the capital is "), ("new", "unknown"), ("same", ".")]
    assert diff_answers("same", "same") == ([("same", "same")], [("same", "same")])
    assert diff_answers("", "new") == ([], [("new", "new")])
    assert diff_answers("a b c", "x y z")[1] == [("new", "x y z")]


@pytest.mark.parametrize("kind", KINDS)
def test_marked_runs_join_to_the_complete_answer(kind: JobKind) -> None:
    report = sample_report(kind=kind, rich=True)
    for comparisons in compare_answers(report).values():
        for comparison in comparisons:
            for answer in comparison.answers:
                joined = "".join(text for _, text in answer.runs or [])
                assert joined == comparison.example.answers[answer.model]


def test_a_report_without_examples_curves_criteria_or_attacks_is_still_a_page() -> None:
    report = sample_report()
    run = report.run.model_copy(update={"curves": {}, "steps": 0, "flops_of_training": None})
    bare = {"examples": (), "criteria": (), "attacks": (), "trials": (), "caveats": (), "retrained": None, "run": run}
    outline = Outline(render_page(report.model_copy(update=bare)))
    assert outline.open == []


def test_a_report_in_which_nothing_could_be_measured_is_still_a_page() -> None:
    report = sample_report()
    gap = {"value": None, "interval": None, "per_example": None, "count": 0, "absent_reason": "the model was lost"}
    models = {
        name: model.model_copy(
            update={
                "sets": {
                    set_name: {metric: value.model_copy(update=gap) for metric, value in values.items()}
                    for set_name, values in model.sets.items()
                }
            }
        )
        for name, model in report.models.items()
    }
    page = render_page(report.model_copy(update={"models": models, "attacks": ()}))
    assert "the model was lost" in words(page)


def test_the_page_needs_neither_torch_nor_the_packages_of_the_engine() -> None:
    report = sample_report(kind="finetune")
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'rouge_score', 'scipy'): sys.modules[name] = None\n"
        "from soul_core.report import Report\n"
        "from soul_core.rendering.page import render_page\n"
        "assert 'matplotlib' not in sys.modules, 'matplotlib is imported when the first chart is drawn'\n"
        "print(len(render_page(Report.model_validate_json(sys.stdin.read()))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=report.model_dump_json(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10_000


def test_sampled_answers_have_a_table_and_name_the_worst_row_by_its_number() -> None:
    report = sample_report(rich=True, forget=0.1)
    facts = report.models["unlearned"].leaks["forget"]
    example = report.examples[0].model_copy(update={"leaks": {"unlearned": "It is <b>Paris</b>."}})

    page = render_page(report.model_copy(update={"examples": (example, *report.examples[1:])}))

    text = words(page)
    assert "Each forget question was asked 10 times at each temperature" in text
    assert "Forget set unlearned 1 " in text
    assert "Forget set unlearned 0.7 " in text
    assert "Forget set, unlearned: 1 of 24 rows leaked (95% interval of the share: 0.11% to 21%)" in text
    assert f"most of row {facts.worst_row}, in {facts.worst_row_leaks} of 20 samples." in text
    assert "a sampled answer that states the fact" in text
    assert "It is &lt;b&gt;Paris&lt;/b&gt;." in page
