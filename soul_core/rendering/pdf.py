"""The report page as PDF, by weasyprint (the optional extra `pdf`). Nothing is fetched.

weasyprint is imported on first use: it needs the system library Pango, which some machines do not have.
"""

import os
import warnings
from importlib import import_module
from types import ModuleType


class PdfUnavailable(Exception):
    """PDFs cannot be made on this machine; the message says what to install."""


def render_pdf(html: str) -> bytes:
    """Return the page as PDF (A4, tagged). Equal pages give equal bytes.

    Files that are not inside the page are never loaded; weasyprint logs what it left out.

    Raises:
        PdfUnavailable: weasyprint or one of its system libraries is missing.
    """
    # Without the system library HarfBuzz-Subset weasyprint warns and subsets fonts with fontTools, which writes the
    # current time into them unless this variable sets another.
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*HarfBuzz", category=DeprecationWarning)
        weasyprint = _import_weasyprint()
        fetcher = weasyprint.urls.URLFetcher(allowed_protocols=("data",), allow_redirects=False)
        document = weasyprint.HTML(string=html, url_fetcher=fetcher)
        pdf: bytes = document.write_pdf(pdf_tags=True, pdf_identifier=b"soul-report")
    return pdf


def _import_weasyprint() -> ModuleType:
    try:
        return import_module("weasyprint")
    except ModuleNotFoundError as error:
        raise PdfUnavailable("PDFs need weasyprint: pip install 'soul-unlearning[pdf]'") from error
    except OSError as error:  # weasyprint loads its system libraries at import
        raise PdfUnavailable(
            "PDFs need the system library Pango (Debian and Ubuntu: apt-get install libpango-1.0-0 "
            "libpangoft2-1.0-0 libharfbuzz-subset0; macOS: brew install pango)"
        ) from error
