"""What the service can do, read off the spec's own classes and the metric catalogue."""

from typing import Any, get_args

from soul_core.metric_catalogue import CATALOGUE
from soul_core.spec import JobSpec
from soul_core.spec_attacks import Attack
from soul_core.spec_optimizers import Curvature, Optimizer
from soul_core.spec_terms import ForgetTerm, Frozen, RetainTerm


def methods() -> dict[str, Any]:
    """Return every choice of a spec: kind, description, JSON schema, defaults; and every metric."""
    return {
        "forget_terms": _choices(ForgetTerm),
        "retain_terms": _choices(RetainTerm),
        "optimizers": _choices(Optimizer),
        "curvatures": _choices(Curvature),
        "attacks": _choices(Attack),
        "metrics": [entry.model_dump(mode="json") for entry in CATALOGUE.values()],
        "spec": {"schema": JobSpec.model_json_schema(), "defaults": JobSpec().model_dump(mode="json")},
    }


def _choices(union: Any) -> list[dict[str, Any]]:
    annotated = get_args(union)[0]
    members: tuple[type[Frozen], ...] = get_args(annotated) or (annotated,)
    return [
        {
            "kind": member.model_fields["kind"].default,
            "description": " ".join((member.__doc__ or "").split()),
            "schema": member.model_json_schema(),
            "defaults": member().model_dump(mode="json"),
        }
        for member in members
    ]
