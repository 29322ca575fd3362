"""The page in a real browser, offline: it loads nothing, fits its window, and is readable by keyboard and on paper."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from pypdf import PdfReader

from soul_core.spec import JobKind
from tests.fixtures.sample_pages import sample_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
KINDS = tuple(JobKind)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

#: All texts whose contrast with their background is below WCAG's AA (4.5 to 1).
#: Source: WCAG 2.2, relative luminance and contrast ratio.
LOW_CONTRAST_TEXT = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1]; };
  const lum = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c[3] > 0) return c; } return [255, 255, 255, 1]; };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const style = getComputedStyle(e);
    const [a, b] = [lum(parse(e.ownerSVGElement ? style.fill : style.color)), lum(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push([e.tagName, e.textContent.trim().slice(0, 30), ratio]);
  }
  return found; }"""
SMALL_TEXT = """() => [...document.querySelectorAll('svg text')]
  .map(e => e.getScreenCTM().a * parseFloat(getComputedStyle(e).fontSize)).filter(size => size && size < 9)"""
OPEN_ALL = "document.querySelectorAll('details').forEach(details => details.open = true)"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


class Visit:
    """One page, opened from disk by a browser without a network, with its requests and console messages."""

    def __init__(self, browser: Browser, path: Path, *, width: int) -> None:
        context = browser.new_context(viewport={"width": width, "height": 800}, offline=True)
        self.page: Page = context.new_page()
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(path.as_uri())


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[Any]:
    visits: list[Visit] = []

    def open_page(kind: JobKind = JobKind.UNLEARN, *, width: int = 1280) -> Visit:
        path = tmp_path / f"{kind}.html"
        path.write_text(sample_page(kind), encoding="utf-8")
        visits.append(Visit(browser, path, width=width))
        return visits[-1]

    yield open_page
    for opened in visits:
        opened.page.context.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_fits_its_window_and_loads_nothing(visit: Any, kind: JobKind) -> None:
    seen = visit(kind)
    for width in (360, 768, 1280):
        seen.page.set_viewport_size({"width": width, "height": 800})
        assert seen.page.evaluate(WIDER) == 0
    seen.page.evaluate(OPEN_ALL)
    for width in (360, 768, 1280):
        seen.page.set_viewport_size({"width": width, "height": 800})
        assert seen.page.evaluate(WIDER) == 0
    assert len(seen.requests) == 1
    assert seen.requests[0].startswith("file:")
    assert seen.messages == []


def test_charts_are_readable_on_a_phone(visit: Any) -> None:
    page = visit(width=360).page
    assert page.locator("svg text").count() > 100
    assert page.evaluate(SMALL_TEXT) == []


def test_all_text_has_contrast_with_its_background(visit: Any) -> None:
    page = visit().page
    page.evaluate(OPEN_ALL)
    assert page.evaluate(LOW_CONTRAST_TEXT) == []


def test_the_keyboard_reaches_the_skip_link_first_and_opens_every_detail(visit: Any) -> None:
    page = visit().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#verdict"
    closed = page.locator("details:not([open])").count()
    assert closed > 5
    for _ in range(200):
        page.keyboard.press("Tab")
        place = page.evaluate("document.activeElement.tagName")
        if place == "SUMMARY" and not page.evaluate("document.activeElement.parentElement.open"):
            page.keyboard.press("Enter")
        if place == "BODY":
            break
    assert page.locator("details:not([open])").count() == 0


def test_assistive_technology_reads_every_chart(visit: Any) -> None:
    page = visit().page
    pictures = page.get_by_role("img")
    assert pictures.count() == page.locator("svg").count() > 15
    assert all(len(picture.get_attribute("aria-label") or "") > 15 for picture in pictures.all())
    assert page.get_by_role("heading", level=1).count() == 1


def test_paper_shows_the_details_that_the_screen_folds(visit: Any) -> None:
    page = visit("finetune").page
    assert page.locator("details[open]").count() == 0
    text = " ".join(sheet.extract_text() for sheet in PdfReader(io.BytesIO(page.pdf(format="A4"))).pages)
    assert "optimizer.curvature.beta2" in text
    assert "What the metrics mean" in text
    assert "Skip to the verdict" not in text
