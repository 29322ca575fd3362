"""The filter of lists of jobs by metadata: `?metadata[key]=value`, any number of times."""

import re
from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import TypeAdapter, ValidationError

from api.errors import ErrorCode, RequestProblem, ServiceError
from api.schemas.submissions import Metadata

_PARAMETER = re.compile(r"metadata\[(.*)\]")
_METADATA: TypeAdapter[dict[str, str]] = TypeAdapter(Metadata)

#: What FastAPI cannot derive: an object as a query parameter.
METADATA_PARAMETER: dict[str, Any] = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "style": "deepObject",
            "explode": True,
            "description": "Only jobs with these pairs of metadata: `?metadata[key]=value`.",
            "schema": _METADATA.json_schema(),
            "example": {"customer": "4711"},
        }
    ]
}


def read_metadata_filter(request: Request) -> dict[str, str]:
    """Return the pairs that the query names. Raises 422 for pairs that no job can have."""
    pairs = {
        match[1]: value for name, value in request.query_params.multi_items() if (match := _PARAMETER.fullmatch(name))
    }
    try:
        return _METADATA.validate_python(pairs)
    except ValidationError as error:
        problems = [RequestProblem("/query/metadata", problem["msg"]) for problem in error.errors()]
        raise ServiceError(ErrorCode.INVALID_REQUEST, problems[0].detail, problems=problems) from error


MetadataFilter = Annotated[dict[str, str], Depends(read_metadata_filter)]
