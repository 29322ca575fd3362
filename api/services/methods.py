"""The choices of a spec, from the spec's own classes and the metric catalogue."""

from typing import Any, get_args

from soul_core.catalogue import METRIC_CATALOG
from soul_core.spec import JobSpec
from soul_core.spec.after import AfterTerm
from soul_core.spec.attacks import Attack
from soul_core.spec.optimizers import Curvature, Optimizer
from soul_core.spec.strategy import Strategy
from soul_core.spec.terms import ForgetTerm, RetainTerm, SpecModel
from soul_core.spec.wrappers import LatentPerturbation, Lora, ParameterSelection, Saliency, Sharpness
from soul_core.tasks import TASKS

#: Field of the spec -> its class; they combine with any term and any optimizer.
WRAPPERS: dict[str, type[SpecModel]] = {
    "parameters": ParameterSelection,
    "saliency": Saliency,
    "sharpness": Sharpness,
    "latent": LatentPerturbation,
    "lora": Lora,
}


def list_methods() -> dict[str, Any]:
    """Return every choice of a spec (kind, description, JSON schema, defaults), every metric, and ready specs."""
    return {
        "forget_terms": _list_choices(ForgetTerm),
        "retain_terms": _list_choices(RetainTerm),
        "after_terms": _list_choices(AfterTerm),
        "optimizers": _list_choices(Optimizer),
        "curvatures": _list_choices(Curvature),
        "wrappers": [_make_entry(name, choice) for name, choice in WRAPPERS.items()],
        "strategies": _list_choices(Strategy),
        "attacks": _list_choices(Attack),
        "metrics": [entry.model_dump(mode="json") for entry in METRIC_CATALOG.values()],
        "tasks": [task.describe() for task in TASKS.values()],
        "spec": {"schema": JobSpec.model_json_schema(), "defaults": JobSpec().model_dump(mode="json")},
    }


def _list_choices(union: Any) -> list[dict[str, Any]]:
    annotated = get_args(union)[0]
    members: tuple[type[SpecModel], ...] = get_args(annotated) or (annotated,)
    return [_make_entry(member.model_fields["kind"].default, member) for member in members]


def _make_entry(kind: str, choice: type[SpecModel]) -> dict[str, Any]:
    """Return the description of one choice. Its defaults omit the settings that the user must set."""
    return {
        "kind": kind,
        "description": " ".join((choice.__doc__ or "").split()),
        "schema": choice.model_json_schema(),
        "defaults": choice.model_construct().model_dump(mode="json", warnings=False),
    }
