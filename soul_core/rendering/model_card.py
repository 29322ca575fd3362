"""README.md beside the weights: what was done to the model, what was measured, and what that cannot say. Torch-free.

The head is the hub's metadata, made by its own library, so that the hub lists every number as an evaluation result.
"""

import re

from huggingface_hub import EvalResult, ModelCardData

from soul_core.rendering.attack_tables import make_attack_rows
from soul_core.rendering.labels import (
    JOB_KIND_TITLES,
    format_headline,
    get_metric_title,
    get_set_title,
    replace_control_characters,
)
from soul_core.rendering.tables import (
    Highlight,
    find_strongest_attack,
    list_measured_sets,
    make_criterion_rows,
    make_metric_rows,
    order_models,
)
from soul_core.rendering.templating import make_environment
from soul_core.report import Report
from soul_core.spec import ALL, JUDGED_MODEL, JobSpec

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TASK = "text-generation"


def render_model_card(report: Report) -> str:
    """Return the card: a YAML head that the model hub reads, then plain Markdown."""
    report = order_models(report)
    environment = make_environment(html=False)
    environment.filters["text"] = escape_markdown
    strongest: Highlight | None = find_strongest_attack(report)
    return environment.get_template("model_card.md.j2").render(
        report=report,
        head=make_card_metadata(report).to_yaml(),
        judged=JUDGED_MODEL[report.spec.kind],
        headline=format_headline(report),
        kind=JOB_KIND_TITLES[report.spec.kind],
        is_adapter=is_adapter(report.spec),
        recipe=_recipe(report.spec),
        criteria=list(make_criterion_rows(report)),
        lines={name: make_metric_rows(report, name) for name in list_measured_sets(report)},
        attacks=[
            (attack, [line for line in make_attack_rows(report, attack) if line.is_main]) for attack in report.attacks
        ],
        strongest=strongest,
    )


def make_card_metadata(report: Report) -> ModelCardData:
    """Return the metadata. A license is not known here, so none is named; the base model is, where it has a hub id."""
    is_hub_id = _HUB_ID.fullmatch(report.model.source) is not None
    results = make_eval_results(report)
    alone = is_adapter(report.spec)
    return ModelCardData(
        library_name="peft" if alone else "transformers",
        pipeline_tag=_TASK,
        base_model=report.model.source if is_hub_id else None,
        base_model_relation=("adapter" if alone else "finetune") if is_hub_id else None,
        tags=_tags(report.spec),
        eval_results=results or None,
        model_name=f"{report.model.source} after {JOB_KIND_TITLES[report.spec.kind]}" if results else None,
        ignore_metadata_errors=False,
    )


def is_adapter(spec: JobSpec) -> bool:
    """Say whether adapters alone are left behind, which are nothing without their base model."""
    return spec.lora is not None and spec.lora.output == "adapter"


def make_eval_results(report: Report) -> list[EvalResult]:
    """Return every number of the judged model as the hub wants it: task, data set, metric, value."""
    judged = report.models.get(JUDGED_MODEL[report.spec.kind])
    digests = {data.name: data.sha256 for data in report.data}
    found = []
    for set_name, values in (judged.sets if judged else {}).items():
        for metric, value in values.items():
            if value.value is not None:
                interval = {"interval": list(value.interval)} if value.interval else None
                found.append(
                    EvalResult(
                        task_type=_TASK,
                        dataset_type="soul" if set_name == ALL else f"soul-{set_name}",
                        dataset_name=get_set_title(set_name),
                        dataset_revision=digests.get(set_name),
                        metric_type=metric,
                        metric_name=get_metric_title(metric),
                        metric_value=value.value,
                        metric_args=interval,
                    )
                )
    return found


def escape_markdown(text: str) -> str:
    """Escape text from outside so that it stays text, on one line, in Markdown."""
    one_line = " ".join(replace_control_characters(text).split())
    return re.sub(r"([\\`*_{}\[\]<>()#|!~])", r"\\\1", one_line)


def _recipe(spec: JobSpec) -> str:
    steps = f"optimizer `{spec.optimizer.kind}`"
    if spec.kind == "finetune":
        return f"fine-tuning on the train set, {steps}"
    return f"forget term `{spec.forget.kind}`, retain term `{spec.retain.kind}`, {steps}"


def _tags(spec: JobSpec) -> list[str]:
    terms = [spec.forget.kind] if spec.kind == "unlearn" else []
    return ["soul", JOB_KIND_TITLES[spec.kind], *terms, spec.optimizer.kind]
