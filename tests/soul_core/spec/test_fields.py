"""Every field of a spec is documented in place: the description is the OpenAPI text, a number names its source."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic.fields import FieldInfo

from soul_core.spec import JobSpec
from soul_core.spec.terms import SpecModel

#: Who chose a default: a paper, its authors' code, a library, or this project.
SOURCE = re.compile(r"\b(Paper's|Authors'|Ours|Common practice|[A-Z]\w+'s) ?(value)?\b|\b[Tt]he (authors'|paper's)")


def list_models(annotation: Any) -> Iterator[type[SpecModel]]:
    """Yield the spec classes of an annotation, and those of their fields."""
    if isinstance(annotation, type) and issubclass(annotation, SpecModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from list_models(field.annotation)
    for part in get_args(annotation):
        yield from list_models(part)


MODULES = {
    f"soul_core.spec{part}"
    for part in (
        "",
        ".terms",
        ".optimizers",
        ".training",
        ".evaluation",
        ".attacks",
        ".strategy",
        ".wrappers",
        ".export",
    )
}
FIELDS = {
    f"{model.__name__}.{name}": field
    for model in dict.fromkeys(list_models(JobSpec))
    if model.__module__ in MODULES
    for name, field in model.model_fields.items()
    if name != "kind" or model is JobSpec
}


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_a_field_has_a_description(field: FieldInfo) -> None:
    assert field.description, "write Field(description=...): it is the OpenAPI text"


NUMBERS = {
    name: field
    for name, field in FIELDS.items()
    if isinstance(field.default, int | float) and not isinstance(field.default, bool) and field.default != 0
}


@pytest.mark.parametrize("field", NUMBERS.values(), ids=NUMBERS)
def test_a_default_number_names_its_source(field: FieldInfo) -> None:
    assert SOURCE.search(field.description or ""), "end the description with Paper's, Authors' value, Ours, ..."
