"""Pages of the sample reports, each drawn once in a test run: drawing takes a second or two."""

from functools import lru_cache

from soul_core.report.page import render
from soul_core.spec import Kind
from tests.soul_core.sample_report import sample_report


@lru_cache
def sample_page(kind: Kind = "unlearn") -> str:
    """Return the page of the rich report of a kind of job."""
    return render(sample_report(kind=kind, rich=True))
