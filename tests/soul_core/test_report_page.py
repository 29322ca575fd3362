"""The page: self-contained, safe with hostile answers, honest, and made without torch."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from soul_core.report import Report, SideBySide
from soul_core.report_page import HEADLINES, duration, marked, render, size
from tests.soul_core.sample_report import sample_report

VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202egnp.exe\x1b[2J"


class Outline(HTMLParser):
    """Checks that tags nest, and keeps what a test asks about."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"


@pytest.fixture(scope="module")
def report() -> Report:
    return sample_report()


def test_the_page_is_well_nested_and_takes_nothing_from_outside(report: Report) -> None:
    page = render(report)
    outline = Outline(page)
    assert outline.open == []
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)
    assert all(value and value.startswith("#") for name, value in outline.attributes if name in {"href", "src"})
    assert "http:" not in page
    assert "https:" not in page
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (sample_report(), "passed"),
        (sample_report(forget=0.8), "failed"),
        (sample_report(forget=0.18), "inconclusive"),
    ],
)
def test_the_verdict_stands_on_top_with_its_reason(report: Report, verdict: str) -> None:
    assert report.verdict == verdict
    top = render(report).split("</header>")[0]
    assert HEADLINES[report.verdict] in top
    assert "24 forget + 24 retain rows" in top
    assert "95%" in top


def test_the_words_claim_no_more_than_was_measured(report: Report) -> None:
    text = re.sub("<[^>]+>", " ", render(report)).lower()
    assert not re.search(r"\b(erased|compliant|compliance|guaranteed|certified|deleted)\b", text)


def test_hostile_answers_are_shown_and_never_obeyed(report: Report) -> None:
    hostile = report.model_copy(
        update={
            "examples": (
                SideBySide(
                    set="forget", row=1, prompt=HOSTILE, expected=HOSTILE, answers={"base": HOSTILE, "unlearned": "x"}
                ),
            ),
            "verdict_reason": HOSTILE,
            "limits": (HOSTILE,),
        }
    )
    page = render(hostile)
    outline = Outline(page)
    assert not {"script", "img"} & set(outline.tags)
    assert not any(name.startswith("on") for name, _ in outline.attributes)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\u202e" not in page
    assert "\x1b" not in page


def test_every_measured_value_is_in_a_table_not_only_in_a_picture(report: Report) -> None:
    page = re.sub("<svg.*?</svg>", "", render(report), flags=re.DOTALL)
    value = report.models["unlearned"].sets["forget"]["probability"].value
    assert value is not None
    assert f"{value:.3g}" in page


def test_what_was_not_measured_is_listed_with_its_reason() -> None:
    page = render(sample_report(perplexity=None))
    assert "Perplexity on the general set: no general set was given." in page


def test_differences_between_answers_are_marked_word_by_word() -> None:
    before, after = marked("the capital is Paris.", "the capital is unknown.")
    assert before == [("same", "the capital is "), ("lost", "Paris"), ("same", ".")]
    assert after == [("same", "the capital is "), ("new", "unknown"), ("same", ".")]
    assert marked("same", "same") == ([("same", "same")], [("same", "same")])
    assert marked("", "new") == ([], [("new", "new")])


def test_a_report_without_examples_curves_or_criteria_is_still_a_page(report: Report) -> None:
    bare = report.model_copy(
        update={"examples": (), "criteria": (), "run": report.run.model_copy(update={"curves": {}})}
    )
    outline = Outline(render(bare))
    assert outline.open == []


def test_the_page_needs_neither_torch_nor_the_engines_packages(report: Report) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'rouge_score', 'scipy'): sys.modules[name] = None\n"
        "from soul_core.report import Report\n"
        "from soul_core.report_page import render\n"
        "print(len(render(Report.model_validate_json(sys.stdin.read()))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=report.model_dump_json(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10_000


def test_durations_and_sizes_read_well() -> None:
    assert [duration(s) for s in (0.04, 59.94, 245, 7800)] == ["0.0 s", "59.9 s", "4 min 5 s", "2 h 10 min"]
    assert [size(n) for n in (12, 2048, 3_412_000_000)] == ["12 B", "2.0 KiB", "3.2 GiB"]
