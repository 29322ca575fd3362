"""Schemas of what leaves the service, for those who read it by machine. No key needed: they say nothing of anybody."""

from typing import Any

from fastapi import APIRouter

from soul_core.report.schema import make_schema

router = APIRouter(prefix="/v1", tags=["schemas"])


@router.get("/schemas/report", operation_id="get_report_schema")
def get_report_schema() -> dict[str, Any]:
    """Return the JSON schema of reports; `schema_version` in it says which one."""
    return make_schema()
