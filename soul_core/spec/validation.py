"""Checks of a spec that need more than one field, or the job's data sets and models. Torch-free.

The API runs them before a job is queued, the engine before a run begins. `RECIPE_CHECKS` and `JOB_CHECKS` at the end
list all of them; each check yields its problems with their places and remedies.
"""

import re
from collections.abc import Collection, Iterator

from soul_core.catalogue import METRIC_CATALOG
from soul_core.errors import BadSpec
from soul_core.near_spelling import find_nearest, shorten
from soul_core.spec import (
    ALL_PRIOR_FORGET_SETS,
    DEFAULT_CRITERIA,
    EVALUATED,
    FINETUNED,
    RETAIN,
    RETRAINED,
    UNLEARNED,
    JobKind,
    JobSpec,
)
from soul_core.spec.evaluation import Criterion
from soul_core.spec.recipe_checks import (
    Check,
    JobContext,
    SpecProblem,
    check_adapter_output,
    check_evaluation,
    check_finetuning,
    check_influence,
    check_saliency,
    check_term_pair,
    check_unlearning,
)
from soul_core.spec.strategy import (
    Ensemble,
    Search,
    is_compared_with_retrained,
    make_search_space,
    select_search_criteria,
)
from soul_core.spec.terms import SET_NAME_PATTERN


def check_spec(
    spec: JobSpec, sets: Collection[str], *, models: Collection[str] = (), has_retrained_log: bool = False
) -> None:
    """Raise BadSpec with every problem of a spec for a job with data sets and further models of these names."""
    problems = format_spec_problems(spec, sets, models=models, has_retrained_log=has_retrained_log)
    if len(problems) == 1:
        raise BadSpec(problems[0])
    if problems:
        raise BadSpec(f"the spec has {len(problems)} problems; correct each of them", details=tuple(problems))


def format_spec_problems(
    spec: JobSpec, sets: Collection[str], *, models: Collection[str] = (), has_retrained_log: bool = False
) -> list[str]:
    """Return the problems of a spec, one line each: `place: detail`."""
    problems = find_spec_problems(spec, sets, models=models, has_retrained_log=has_retrained_log)
    return [f"{problem.place}: {problem.detail}" if problem.place else problem.detail for problem in problems]


def find_spec_problems(
    spec: JobSpec, sets: Collection[str], *, models: Collection[str] = (), has_retrained_log: bool = False
) -> Iterator[SpecProblem]:
    """Yield the problems of a spec for a job with data sets and further models of these names."""
    made = {RETAIN} if spec.makes_retain_set(sets) else set()
    context = JobContext({*sets, *made}, models, has_retrained_log, strategy=spec.strategy.kind)
    for check in JOB_CHECKS:
        yield from check(spec, context)


def _check_recipes(spec: JobSpec, context: JobContext) -> Iterator[SpecProblem]:
    """Check what is trained: the spec itself, or each member of an ensemble.

    A problem that members inherit is reported once, at the job's own place, unless all members replace that part.
    """
    own_problems = [problem for check in RECIPE_CHECKS for problem in check(spec, context)]
    if not isinstance(spec.strategy, Ensemble) or spec.kind == JobKind.EVALUATE:
        yield from own_problems
        return
    by_member: dict[str, list[SpecProblem]] = {}
    for place, member in spec.get_recipes().items():
        by_member[place] = [problem for check in RECIPE_CHECKS for problem in check(member, context)]
        if member.training.max_tokens != spec.training.max_tokens:
            detail = "all members share the encoded data sets; set training.max_tokens of the job instead"
            by_member[place].append(SpecProblem("training.max_tokens", detail))
    for problem in own_problems:
        if any(problem in problems for problems in by_member.values()):
            yield problem
    for settings, (place, problems) in zip(spec.strategy.members, by_member.items(), strict=True):
        for problem in problems:
            if problem not in own_problems:
                is_own = problem.place.split(".")[0] in settings
                remedy = "" if is_own else "; it is the job's setting: move it to the members that can use it"
                yield SpecProblem(f"{place}.{problem.place}", problem.detail + remedy)


_CRITERIA_REMEDY = "give at least one that is neither under an attack nor compared with a retrained model"


def _check_search(spec: JobSpec, context: JobContext) -> Iterator[SpecProblem]:
    is_best_of = isinstance(spec.strategy, Ensemble) and spec.strategy.merge == "best"
    if is_best_of and not select_search_criteria(spec, context.sets):
        yield SpecProblem("criteria", f"'best' chooses by the criteria; {_CRITERIA_REMEDY}")
    if not isinstance(spec.strategy, Search):
        return
    if not select_search_criteria(spec, context.sets):
        yield SpecProblem("criteria", f"a search needs criteria to meet; {_CRITERIA_REMEDY}")
    if spec.kind == JobKind.FINETUNE and spec.criteria == DEFAULT_CRITERIA[spec.kind]:
        yield SpecProblem(
            "criteria", "the default only asks that the model learned something; give the values to reach"
        )
    if spec.strategy.retain_weight and "retain.weight" not in make_search_space(spec):
        yield SpecProblem("strategy.retain_weight", "there is no retain term to weigh against another; leave it out")
    measured_sets = {*context.sets, *spec.list_made_sets(context.sets)}
    measured_sets |= {f"forget_{kind}" for kind in spec.evaluation.probes}
    for number, criterion in enumerate(spec.criteria):
        if criterion.attack is not None or criterion.set == ALL_PRIOR_FORGET_SETS:
            continue
        if problem := _find_criterion_problem(criterion, measured_sets, context):
            yield SpecProblem(f"criteria.{number}", problem)


def _find_criterion_problem(criterion: Criterion, measured_sets: Collection[str], context: JobContext) -> str | None:
    """Return why a search cannot measure a criterion."""
    entry = METRIC_CATALOG.get(criterion.metric)
    if entry is None:
        return None
    if entry.scope == "model" and criterion.set != entry.home_set:
        return f"{criterion.metric} belongs to the set '{entry.home_set}', not to '{criterion.set}'; change the set"
    inputs = {name for name, _ in entry.inputs} or {criterion.set}
    if missing := sorted(inputs.difference(measured_sets)):
        names = f"the set '{missing[0]}'" if len(missing) == 1 else f"the sets {', '.join(missing)}"
        remedy = "give the data, or leave the criterion out"
        return f"a search measures {criterion.metric} on {names}, which the job does not have; {remedy}"
    has_retrained = context.has_retrained_log or RETRAINED in context.models
    if is_compared_with_retrained(criterion) and not has_retrained:
        return f"{criterion.metric} compares with a retrained model, and there is none; give one"
    return None


def _check_models(spec: JobSpec, context: JobContext) -> Iterator[SpecProblem]:
    if context.has_retrained_log and RETRAINED in context.models:
        yield SpecProblem("", "the retrained model is given twice, as a model and as a log; leave one out")
    for name in context.models:
        if not re.fullmatch(SET_NAME_PATTERN, name):
            yield SpecProblem("", f"'{name}' cannot name a model; use lower-case letters, digits and _, a letter first")
        elif name in {UNLEARNED, FINETUNED, EVALUATED}:
            yield SpecProblem("", f"the report uses the name '{name}' for the job's own model; choose another name")
        elif spec.kind != JobKind.EVALUATE and name != RETRAINED:
            yield SpecProblem(
                "",
                f"a job of kind '{spec.kind}' measures no model '{name}', only '{RETRAINED}'; compare models "
                "with kind 'evaluate'",
            )


def _check_dropped_set(spec: JobSpec, context: JobContext) -> Iterator[SpecProblem]:
    if spec.dropped_set in context.sets:
        yield SpecProblem(
            "", f"the report uses the name '{spec.dropped_set}' for the rows it leaves out; choose another name"
        )


def _check_attack_labels(spec: JobSpec, _: JobContext) -> Iterator[SpecProblem]:
    labels = [attack.label for attack in spec.attacks]
    for number, label in enumerate(labels):
        if label in labels[:number]:
            yield SpecProblem(f"attacks.{number}", f"another attack has the label '{label}'; leave one of them out")
    for number, criterion in enumerate(spec.criteria):
        if criterion.attack is not None and criterion.attack not in labels:
            known = ", ".join(labels) or "none"
            yield SpecProblem(
                f"criteria.{number}.attack", f"the spec has no attack '{criterion.attack}'; its attacks are: {known}"
            )


def _check_metric_names(spec: JobSpec, _: JobContext) -> Iterator[SpecProblem]:
    places = [(f"evaluation.metrics.{number}", name) for number, name in enumerate(spec.evaluation.metrics)]
    places += [(f"criteria.{number}.metric", criterion.metric) for number, criterion in enumerate(spec.criteria)]
    for place, name in places:
        if name not in METRIC_CATALOG:
            near = find_nearest(name, METRIC_CATALOG)
            hint = f"did you mean '{near}'?" if near else f"known metrics: {', '.join(METRIC_CATALOG)}"
            yield SpecProblem(place, f"unknown metric '{shorten(name)}'; {hint}")


def _check_adapter_export(spec: JobSpec, _: JobContext) -> Iterator[SpecProblem]:
    if not any(recipe.writes_adapter for recipe in spec.get_recipes().values()):
        return
    if spec.export.dtype not in {"base", "float32"}:
        detail = "adapters are measured and written in float32; leave it out, or set lora.output to 'merged'"
        yield SpecProblem("export.dtype", detail)
    if spec.export.gguf != "none":
        yield SpecProblem("export.gguf", "an adapter alone makes no GGUF file; set lora.output to 'merged'")


#: Checks of everything that is trained: the spec itself, or each member of an ensemble.
RECIPE_CHECKS: tuple[Check, ...] = (
    check_unlearning,
    check_term_pair,
    check_finetuning,
    check_evaluation,
    check_influence,
    check_saliency,
    check_adapter_output,
)
#: Checks of a job. `_check_recipes` runs the table above.
JOB_CHECKS: tuple[Check, ...] = (
    _check_recipes,
    _check_search,
    _check_models,
    _check_attack_labels,
    _check_metric_names,
    _check_dropped_set,
    _check_adapter_export,
)
