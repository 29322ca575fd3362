"""Chat templates: read at registration, refused with a message, and pinned to a day if they read the date."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bench.chat_templates import CHATML, DATED, THINKING
from tests.api.conftest import ROWS, ApiClient, problem


@pytest.fixture
def submit(admin: ApiClient, model_folder: Path) -> Any:
    """Register the folder with a template and submit a job on it."""

    def submit(template: str, **spec: Any) -> Any:
        (model_folder / "chat_template.jinja").write_text(template)
        made = admin("POST", "/v1/models", json={"source": "local", "location": str(model_folder)})
        assert made.status_code == 201, made.text
        datasets = {"forget": admin.dataset(ROWS[:2]), "retain": admin.dataset(ROWS[2:])}
        body = {"model_id": made.json()["id"], "datasets": datasets, "spec": spec}
        return admin("POST", "/v1/jobs", json=body)

    return submit


def test_registration_reports_what_the_template_renders(admin: ApiClient, model_folder: Path) -> None:
    (model_folder / "chat_template.jinja").write_text(THINKING)

    facts = admin("POST", "/v1/models", json={"source": "local", "location": str(model_folder)}).json()["facts"]

    assert facts["chat"]["before_answer"] == "<think>\n\n</think>\n\n"
    assert "enable_thinking" in facts["chat"]["variables"]


def test_an_unusable_template_is_refused_at_registration(admin: ApiClient, model_folder: Path) -> None:
    (model_folder / "chat_template.jinja").write_text("{{ messages[0]['role'] }}")

    answer = admin("POST", "/v1/models", json={"source": "local", "location": str(model_folder)})

    assert "does not show the user's question" in str(problem(answer, 422, "unusable_model"))


def test_a_job_is_pinned_to_its_day_if_the_template_reads_the_date(submit: Any) -> None:
    assert submit(CHATML).json()["spec"]["template_date"] is None
    assert submit(DATED, template_date="2025-03-09").json()["spec"]["template_date"] == "2025-03-09"
    assert submit(CHATML, chat_template=DATED).json()["spec"]["template_date"] is not None
    assert submit(DATED, chat_template=CHATML).json()["spec"]["template_date"] is None
    before = datetime.now(UTC).date()
    pinned = submit(DATED).json()["spec"]["template_date"]
    assert before.isoformat() <= pinned <= datetime.now(UTC).date().isoformat()


def test_a_variable_that_the_template_does_not_read_is_refused_by_name(submit: Any) -> None:
    answer = submit(THINKING, chat_template_kwargs={"enable_thinkin": False})

    (error,) = problem(answer, 422, "invalid_job")["errors"]
    assert error["pointer"] == "/spec/chat_template_kwargs/enable_thinkin"
    assert "enable_thinking" in error["detail"]


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"chat_template": "{% for m in messages %}"}, "/spec/chat_template"),
        ({"chat_template_kwargs": {"messages": "x"}}, "/spec/chat_template_kwargs"),
        ({"template_date": "yesterday"}, "/spec/template_date"),
    ],
)
def test_settings_that_no_template_can_have_are_refused(submit: Any, spec: dict[str, Any], place: str) -> None:
    errors = problem(submit(CHATML, **spec), 422, "invalid_request")["errors"]

    assert [error["pointer"] for error in errors] == [place]
