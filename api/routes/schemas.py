"""JSON schemas of the service's documents. They contain no user's data and need no key."""

from typing import Any

from fastapi import APIRouter

from soul_core.report.schema import make_schema

router = APIRouter(prefix="/v1", tags=["schemas"])


@router.get("/schemas/report", operation_id="get_report_schema")
def get_report_schema() -> dict[str, Any]:
    """Return the JSON schema of reports; its `schema_version` is the version of the reports it describes."""
    return make_schema()
