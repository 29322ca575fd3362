"""The body that lists the choices of a spec."""

from typing import Any

from pydantic import Field

from api.schemas.common import ResponseModel


class MethodOut(ResponseModel):
    """One choice of a spec."""

    kind: str
    description: str
    json_schema: dict[str, Any] = Field(alias="schema")
    defaults: dict[str, Any]


class SpecOut(ResponseModel):
    """The complete spec."""

    json_schema: dict[str, Any] = Field(alias="schema")
    defaults: dict[str, Any]


class MethodsOut(ResponseModel):
    """The choices of a spec."""

    forget_terms: list[MethodOut]
    retain_terms: list[MethodOut]
    after_terms: list[MethodOut]
    optimizers: list[MethodOut]
    curvatures: list[MethodOut]
    wrappers: list[MethodOut] = Field(description="`kind` is the field of the spec.")
    strategies: list[MethodOut]
    attacks: list[MethodOut]
    metrics: list[dict[str, Any]] = Field(description="Name, description, direction and default bounds of each metric.")
    tasks: list[dict[str, Any]] = Field(description="Published tasks with ready specs: sets, recipe, sources.")
    spec: SpecOut
