"""The report of a job, in every media type."""

import sys
from typing import Any

import pytest

from tests.api.conftest import ApiClient, Finish, problem


def test_the_report_is_json_or_a_page(admin: ApiClient, finish: Finish) -> None:
    path = f"/v1/jobs/{finish('passed')}/report"

    assert admin("GET", path).json() == {"verdict": "x"}
    page = admin("GET", path, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.text == "<h1>r</h1>"
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_report_is_a_pdf_for_a_client_that_accepts_pdf(admin: ApiClient, finish: Finish) -> None:
    answer = admin("GET", f"/v1/jobs/{finish('passed')}/report", headers={"Accept": "application/pdf"})

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/pdf")
    assert answer.content.startswith(b"%PDF-")


def test_a_server_without_pdf_support_names_the_missing_package(
    admin: ApiClient, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)  # the fault: not installed

    answer = admin("GET", f"/v1/jobs/{finish('passed')}/report", headers={"Accept": "application/pdf"})

    assert "weasyprint" in problem(answer, 501, "pdf_unavailable")["detail"]


def test_an_unfinished_job_has_no_report_and_no_files(admin: ApiClient, job_body: dict[str, Any]) -> None:
    path = f"/v1/jobs/{admin('POST', '/v1/jobs', json=job_body).json()['id']}"

    problem(admin("GET", f"{path}/report"), 409, "no_report")
    problem(admin("GET", f"{path}/artifacts"), 409, "no_artifacts")
