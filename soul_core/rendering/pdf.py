"""The report page on paper: HTML in, PDF out, by weasyprint (the optional extra `pdf`). Nothing is fetched.

weasyprint is imported when it is first asked for: it needs the system library Pango, which not every machine has.
"""

import os
import warnings
from importlib import import_module
from types import ModuleType


class PdfUnavailable(Exception):
    """PDFs cannot be made on this machine; the message says what to install."""


def render_pdf(html: str) -> bytes:
    """Return the page as PDF (A4, tagged). Equal pages give equal bytes.

    What the page itself does not hold is not loaded, wherever it lies; weasyprint logs what it left out.
    Raises PdfUnavailable.
    """
    # Without the system library HarfBuzz-Subset weasyprint warns and cuts fonts by fontTools, which writes the time of
    # day into them unless this variable names another.
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*HarfBuzz", category=DeprecationWarning)
        weasyprint = _weasyprint()
        nothing_outside = weasyprint.urls.URLFetcher(allowed_protocols=("data",), allow_redirects=False)
        document = weasyprint.HTML(string=html, url_fetcher=nothing_outside)
        pdf: bytes = document.write_pdf(pdf_tags=True, pdf_identifier=b"soul-report")
    return pdf


def _weasyprint() -> ModuleType:
    try:
        return import_module("weasyprint")
    except ModuleNotFoundError as error:
        raise PdfUnavailable("PDFs need weasyprint: pip install 'soul-unlearning[pdf]'") from error
    except OSError as error:  # its libraries are loaded at import
        raise PdfUnavailable(
            "PDFs need the system library Pango (Debian and Ubuntu: apt-get install libpango-1.0-0 "
            "libpangoft2-1.0-0 libharfbuzz-subset0; macOS: brew install pango)"
        ) from error
