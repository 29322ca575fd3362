"""README.md in the folder of the weights: what was done to the model, what was measured, and the caveats. Torch-free.

The head is the hub's metadata, made by the hub's own library, so that the hub lists every number as an evaluation
result.
"""

import re

from huggingface_hub import EvalResult, ModelCardData

from soul_core.formatting import replace_control_characters
from soul_core.rendering.attack_tables import make_attack_rows
from soul_core.rendering.labels import JOB_KIND_TITLES, get_headline, get_metric_title, get_set_title
from soul_core.rendering.tables import (
    find_strongest_attack,
    list_measured_sets,
    make_criterion_rows,
    make_metric_rows,
    order_models,
)
from soul_core.rendering.templating import make_environment
from soul_core.report import Report
from soul_core.spec import ALL, JUDGED_MODEL, JobKind, JobSpec

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TASK = "text-generation"


def render_model_card(report: Report) -> str:
    """Return the card: a YAML head that the model hub reads, then Markdown."""
    report = order_models(report)
    environment = make_environment(is_html=False)
    environment.filters["text"] = escape_markdown
    return environment.get_template("model_card.md.j2").render(
        report=report,
        head=make_card_metadata(report).to_yaml(),
        headline=get_headline(report),
        recipe=_describe_recipe(report.spec),
        criteria=list(make_criterion_rows(report)),
        metric_rows={name: make_metric_rows(report, name) for name in list_measured_sets(report)},
        attacks=[
            (attack, [row for row in make_attack_rows(report, attack) if row.is_main]) for attack in report.attacks
        ],
        strongest_attack=find_strongest_attack(report),
    )


def make_card_metadata(report: Report) -> ModelCardData:
    """Return the metadata. The license is unknown here and left out; the base model is named if it has a hub id."""
    is_hub_id = _HUB_ID.fullmatch(report.model.source) is not None
    results = make_eval_results(report)
    relation = "adapter" if report.spec.writes_adapter else "finetune"
    kind_title = JOB_KIND_TITLES[report.spec.kind]
    methods: list[str] = [report.spec.forget.kind] if report.spec.kind == JobKind.UNLEARN else []
    methods += [report.spec.optimizer.kind]
    if report.spec.strategy.kind == "influence":
        methods = ["influence"]
    return ModelCardData(
        library_name="peft" if report.spec.writes_adapter else "transformers",
        pipeline_tag=_TASK,
        base_model=report.model.source if is_hub_id else None,
        base_model_relation=relation if is_hub_id else None,
        tags=["soul", kind_title, *methods],
        eval_results=results or None,
        model_name=f"{report.model.source} after {kind_title}" if results else None,
        ignore_metadata_errors=False,
    )


def make_eval_results(report: Report) -> list[EvalResult]:
    """Return every number of the judged model in the hub's form: task, data set, metric, value."""
    judged = report.models.get(JUDGED_MODEL[report.spec.kind])
    digests = {data.name: data.sha256 for data in report.data}
    return [
        EvalResult(
            task_type=_TASK,
            dataset_type="soul" if set_name == ALL else f"soul-{set_name}",
            dataset_name=get_set_title(set_name),
            dataset_revision=digests.get(set_name),
            metric_type=metric,
            metric_name=get_metric_title(metric),
            metric_value=value.value,
            metric_args={"interval": list(value.interval)} if value.interval else None,
        )
        for set_name, values in (judged.sets if judged else {}).items()
        for metric, value in values.items()
        if value.value is not None
    ]


def escape_markdown(text: str) -> str:
    """Escape text so that Markdown shows it as it is, on one line."""
    one_line = " ".join(replace_control_characters(text).split())
    return re.sub(r"([\\`*_{}\[\]<>()#|!~])", r"\\\1", one_line)


def _describe_recipe(spec: JobSpec) -> str:
    if spec.strategy.kind == "influence":
        return "one step of influence unlearning"
    optimizer = f"optimizer `{spec.optimizer.kind}`"
    if spec.kind == JobKind.FINETUNE:
        return f"fine-tuning on the train set, {optimizer}"
    return f"forget term `{spec.forget.kind}`, retain term `{spec.retain.kind}`, {optimizer}"
