"""What a spec asks that a single field cannot check: known metrics, and the data sets its terms need. Torch-free.

The API asks before a job is queued, the engine before a run begins.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterator

from soul_core.catalogue import METRIC_CATALOG
from soul_core.errors import BadSpec
from soul_core.spec import (
    EVALUATED,
    FINETUNED,
    FORGET,
    RETAIN,
    RETRAINED,
    TRAIN,
    UNLEARNED,
    JobKind,
    JobSpec,
)
from soul_core.spec.method_checks import find_method_problems
from soul_core.spec.search_checks import find_search_problems
from soul_core.spec.strategy import Ensemble
from soul_core.spec.term_pairs import find_term_pair_problem
from soul_core.spec.terms import SET_NAME_PATTERN


def check_spec(
    spec: JobSpec, sets: Collection[str], *, models: Collection[str] = (), has_retrained_log: bool = False
) -> None:
    """Raise BadSpec naming everything that cannot be obeyed with data sets and further models of these names."""
    problems = list(format_spec_problems(spec, sets, models=models, has_retrained_log=has_retrained_log))
    if problems:
        raise BadSpec(
            problems[0] if len(problems) == 1 else f"the spec has {len(problems)} problems",
            details=tuple(problems) if len(problems) > 1 else (),
        )


def format_spec_problems(
    spec: JobSpec, sets: Collection[str], *, models: Collection[str] = (), has_retrained_log: bool = False
) -> Iterator[str]:
    """Yield one line for each problem, saying what to do."""
    for place, detail in find_spec_problems(spec, sets, models=models, has_retrained_log=has_retrained_log):
        yield f"{place}: {detail}" if place else detail


def find_spec_problems(
    spec: JobSpec, sets: Collection[str], *, models: Collection[str] = (), has_retrained_log: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield (dotted place in the spec, what to do) for each problem; the place is empty when the sets are at fault."""
    yield from _recipes(spec, sets)
    yield from find_search_problems(spec, sets, has_retrained=has_retrained_log or RETRAINED in models)
    yield from _models(spec, models, has_retrained_log)
    yield from _names(spec)
    if spec.dropped_set in sets:
        yield "", f"'{spec.dropped_set}' is what a report calls the rows it leaves out; name that set differently"
    yield from _export(spec)


def _unlearn(spec: JobSpec, sets: Collection[str]) -> Iterator[tuple[str, str]]:
    if FORGET not in sets:
        yield "", "there is no forget set: say what is to be unlearned"
    if RETAIN not in sets and spec.retain.kind != "none":
        needed = f"'{spec.retain.kind}' needs a retain set; give one, or set retain to "
        yield "retain.kind", needed + '{"kind": "none"} and leave the model\'s other abilities unprotected'
    if problem := find_term_pair_problem(spec.forget.kind, spec.retain.kind):
        yield "retain.kind", problem
    curvature = getattr(spec.optimizer, "curvature", None)
    if RETAIN not in sets and curvature is not None and getattr(curvature, "data", "forget") != "forget":
        yield "optimizer.curvature.data", f"'{curvature.data}' needs a retain set; give one, or set it to 'forget'"


def _finetune(spec: JobSpec, sets: Collection[str]) -> Iterator[tuple[str, str]]:
    if TRAIN not in sets:
        yield "", "there is no train set: say what is to be learned"
    plain = JobSpec(kind="finetune")
    for name in ("forget", "retain"):
        if getattr(spec, name) != getattr(plain, name):
            yield name, f"a job of kind 'finetune' learns its train set and has no {name} term; leave it out"
    if spec.prior_forget_sets == "unlearn":
        yield "prior_forget_sets", "fine-tuning unlearns nothing; what earlier jobs forgot is measured"
    curvature = getattr(spec.optimizer, "curvature", None)
    if curvature is not None and getattr(curvature, "data", "retain") != "retain":
        yield "optimizer.curvature.data", "fine-tuning takes the curvature of what it learns; leave it out"


def _evaluate(spec: JobSpec, sets: Collection[str]) -> Iterator[tuple[str, str]]:
    if not sets:
        yield "", "there is no data set: say what the model is to be asked"
    plain = JobSpec(kind="evaluate")
    for name in ("forget", "retain", "retain_conflicts", "optimizer", "strategy"):
        if getattr(spec, name) != getattr(plain, name):
            yield name, "a job of kind 'evaluate' changes no model; leave it out"


_OF_KIND: dict[JobKind, Callable[[JobSpec, Collection[str]], Iterator[tuple[str, str]]]] = {
    JobKind.UNLEARN: _unlearn,
    JobKind.FINETUNE: _finetune,
    JobKind.EVALUATE: _evaluate,
}


def _recipes(spec: JobSpec, sets: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield what speaks against each recipe that is trained. What an ensemble's members take over from the job is told
    once, at the job's own place; what all of them replace is nobody's problem.
    """
    own = list(_of_recipe(spec, sets, spec.strategy.kind))
    if not isinstance(spec.strategy, Ensemble) or spec.kind == "evaluate":
        yield from own
        return
    found = {}
    for place, member in spec.get_recipes().items():
        found[place] = list(_of_recipe(member, sets, spec.strategy.kind))
        if member.training.max_tokens != spec.training.max_tokens:
            detail = "the data sets are encoded once, for all members; set the job's own training.max_tokens"
            found[place].append(("training.max_tokens", detail))
    yield from (problem for problem in own if any(problem in each for each in found.values()))
    for settings, (place, problems) in zip(spec.strategy.members, found.items(), strict=True):
        for at, detail in problems:
            if (at, detail) not in own:
                taken_over = (
                    "" if at.split(".")[0] in settings else "; it is the job's: give it to the members it suits"
                )
                yield f"{place}.{at}", f"{detail}{taken_over}"


def _of_recipe(spec: JobSpec, sets: Collection[str], strategy: str) -> Iterator[tuple[str, str]]:
    yield from _OF_KIND[spec.kind](spec, sets)
    yield from find_method_problems(spec, sets, strategy=strategy)


def _models(spec: JobSpec, models: Collection[str], retrained_log: bool) -> Iterator[tuple[str, str]]:
    if retrained_log and RETRAINED in models:
        yield "", "the reference is given twice: as a model and as a log; leave one out"
    for name in models:
        if not re.fullmatch(SET_NAME_PATTERN, name):
            yield "", f"'{name}' is no name for a model: small letters, digits and _"
        elif name in {UNLEARNED, FINETUNED, EVALUATED}:
            yield "", f"'{name}' is what the report calls the job's own model; name the other one differently"
        elif spec.kind != "evaluate" and name != RETRAINED:
            yield "", f"beside the job's model only a '{RETRAINED}' is measured, not '{name}'; evaluate compares others"


def _names(spec: JobSpec) -> Iterator[tuple[str, str]]:
    """Yield metrics nobody knows, attacks of one label, and criteria on attacks that are not run."""
    labels = [attack.label for attack in spec.attacks]
    for i, label in enumerate(labels):
        if label in labels[:i]:
            yield f"attacks.{i}", f"there is an attack '{label}' already; one of each label can be told apart"
    for i, criterion in enumerate(spec.criteria):
        if criterion.attack is not None and criterion.attack not in labels:
            ran = ", ".join(labels) or "none"
            yield f"criteria.{i}.attack", f"no attack of the spec is called '{criterion.attack}'; they are: {ran}"
    named = [(f"evaluation.metrics.{i}", name) for i, name in enumerate(spec.evaluation.metrics)]
    named += [(f"criteria.{i}.metric", criterion.metric) for i, criterion in enumerate(spec.criteria)]
    for place, name in named:
        if name not in METRIC_CATALOG:
            near = difflib.get_close_matches(name, METRIC_CATALOG, n=1, cutoff=0.6)
            hint = f"did you mean '{near[0]}'?" if near else f"known metrics: {', '.join(METRIC_CATALOG)}"
            yield place, f"unknown metric '{name}'; {hint}"


def _export(spec: JobSpec) -> Iterator[tuple[str, str]]:
    plain = JobSpec.model_fields["export"].default
    if spec.kind == "evaluate" and spec.export != plain:
        yield "export", "a job of kind 'evaluate' writes no model; leave it out"
    if any(recipe.lora is not None and recipe.lora.output == "adapter" for recipe in spec.get_recipes().values()):
        if spec.export.dtype not in {"base", "float32"}:
            yield (
                "export.dtype",
                "adapters are measured and written in float32; leave it out, or set lora.output 'merged'",
            )
        if spec.export.gguf != "none":
            yield "export.gguf", "an adapter alone makes no GGUF file; set lora.output to 'merged'"
