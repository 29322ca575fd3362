"""The page as PDF: pages, text, structure; nothing is fetched; without Pango the error says what to install."""

import io
import sys
from typing import Any

import pytest
from pypdf import PdfReader

from soul_core.rendering.page import render_page
from soul_core.rendering.pdf import PdfUnavailable, render_pdf
from tests.fixtures.sample_report import sample_report

pytest.importorskip("weasyprint", exc_type=OSError)


@pytest.fixture(scope="module")
def pdf() -> bytes:
    return render_pdf(render_page(sample_report(kind="finetune")))


@pytest.fixture(scope="module")
def reader(pdf: bytes) -> PdfReader:
    return PdfReader(io.BytesIO(pdf))


def test_the_pdf_has_pages_a_title_and_the_verdict_as_text(reader: PdfReader) -> None:
    report = sample_report(kind="finetune")
    text = " ".join(" ".join(page.extract_text() for page in reader.pages).split())
    assert len(reader.pages) > 2
    assert reader.metadata is not None
    assert reader.metadata.title == f"SOUL report: passed · {report.job_id}"
    assert "Passed: every criterion of this job is met" in text
    assert f"1 / {len(reader.pages)}" in text


def test_details_that_the_screen_folds_are_on_paper(reader: PdfReader) -> None:
    text = " ".join(page.extract_text() for page in reader.pages)
    assert "optimizer.curvature.beta2" in text
    assert "What the metrics mean" in text


def test_charts_keep_their_text_on_paper(reader: PdfReader) -> None:
    text = " ".join(page.extract_text() for page in reader.pages)
    assert "Exact memorization" in text
    assert "healthy" in text


def test_the_pdf_is_tagged_and_has_an_outline(reader: PdfReader) -> None:
    root: Any = reader.trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"] == "en"
    assert "Criteria of the verdict" in str(reader.outline)


def test_equal_pages_give_equal_bytes() -> None:
    page = "<!doctype html><html lang='en'><title>x</title><h1>a</h1>"
    assert render_pdf(page) == render_pdf(page)


@pytest.mark.parametrize("place", ["file:///etc/passwd", "http://127.0.0.1:9/x.png", "ftp://127.0.0.1/x"])
def test_nothing_is_fetched(place: str, caplog: pytest.LogCaptureFixture) -> None:
    made = render_pdf(f"<!doctype html><img src='{place}'><link rel=stylesheet href='{place}'><h1>still a page</h1>")
    assert "still a page" in PdfReader(io.BytesIO(made)).pages[0].extract_text()
    assert b"root:" not in made
    assert "disallowed protocol" in caplog.text


@pytest.mark.parametrize(
    ("error", "hint"),
    [(ModuleNotFoundError("no weasyprint"), r"soul-unlearning\[pdf\]"), (OSError("libpango"), "libpango-1.0-0")],
)
def test_a_machine_that_cannot_make_pdfs_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, error: Exception, hint: str
) -> None:
    class FailingFinder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "weasyprint":
                raise error

    monkeypatch.delitem(sys.modules, "weasyprint")
    monkeypatch.setattr(sys, "meta_path", [FailingFinder(), *sys.meta_path])
    with pytest.raises(PdfUnavailable, match=hint):
        render_pdf("<p>x")
