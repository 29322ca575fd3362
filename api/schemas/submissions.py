"""The bodies that create jobs: POST /v1/jobs, /v1/estimates and /v1/evaluations."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from api.schemas.common import LINE_PATTERN
from soul_core.spec import JobKind, JobSpec, Training
from soul_core.spec.optimizers import AdamW, Optimizer
from soul_core.spec.terms import SET_NAME_PATTERN, SpecModel
from soul_store.job_priority import JobPriority

SetName = Annotated[str, Field(pattern=SET_NAME_PATTERN)]
ModelName = Annotated[str, Field(pattern=SET_NAME_PATTERN)]
MetadataKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/-]{1,64}$")]
MetadataValue = Annotated[str, StringConstraints(max_length=512, pattern=LINE_PATTERN)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]
MaxGpuSeconds = Annotated[float, Field(gt=0, le=1e9)]


class NoRetrainedModel(SpecModel):
    """No retrained model: the report names the metrics that need one and are absent."""

    kind: Literal["none"] = "none"


class RegisteredRetrainedModel(SpecModel):
    """A registered model that was retrained without the forget set; the same as `models.retrained`."""

    kind: Literal["model"] = "model"
    model_id: str = Field(description="The retrained model.")


class RetrainedModelLog(SpecModel):
    """The log of an earlier evaluation of the retrained model, which is then not loaded again.

    Its rows are matched by content, in any order; a log of other rows fails the job.
    """

    kind: Literal["log"] = "log"
    job_id: str | None = Field(
        None,
        description="A job with a log of its retrained model (logs/retrained.json); of a job of kind finetune or "
        "evaluate otherwise the log of the model that it judged.",
    )
    artifact_id: str | None = Field(
        None, description="Or the file itself: logs/NAME.json or report.json of a job's artifacts."
    )

    @model_validator(mode="after")
    def _check_one_source(self) -> "RetrainedModelLog":
        if (self.job_id is None) == (self.artifact_id is None):
            raise ValueError("set either job_id or artifact_id")
        return self


class RetrainModel(SpecModel):
    """Retrain a model first: a job of kind finetune on the `retain` data set, which this job waits for.

    A job with the same model, rows and settings is reused, if it has not failed. Cancelling the job that waits does not
    cancel it: later jobs reuse it.
    """

    kind: Literal["retrain"] = "retrain"
    model_id: str = Field(description="The model before it was trained on the forget set.")
    training: Training = Training()
    optimizer: Optimizer = AdamW()


RetrainedModelSource = Annotated[
    NoRetrainedModel | RegisteredRetrainedModel | RetrainedModelLog | RetrainModel, Field(discriminator="kind")
]


class JobCreate(SpecModel):
    """A job: which model, which data sets, and the spec."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "forget customer 4711",
                    "model_id": "mdl_01k9",
                    "datasets": {"forget": "ds_01k9a", "retain": "ds_01k9b", "general": "ds_01k9c"},
                    "retrained": {"kind": "retrain", "model_id": "mdl_01k8", "training": {"epochs": 5}},
                    "spec": {"forget": {"kind": "npo"}, "optimizer": {"kind": "sophia", "lr": 2e-5}},
                }
            ]
        }
    )

    name: str = Field("", max_length=200, pattern=LINE_PATTERN, description="For display.")
    model_id: str = Field(description="The base model; in an evaluation the model that is judged.")
    models: dict[ModelName, str] = Field(
        default_factory=dict,
        max_length=100,
        description="Name -> id of models to evaluate in addition: `retrained`, which was retrained without the forget "
        "set; in an evaluation any name.",
    )
    retrained: RetrainedModelSource = NoRetrainedModel()
    datasets: dict[SetName, str] = Field(
        max_length=100,
        description="Set name -> data set id. Kind unlearn needs `forget`; without `retain`, the run makes the retain "
        "set from the base model (`spec.data.auto_retain`); kind "
        "finetune needs `train`. `holdout` (like the forget set, never seen) serves membership inference, `general` "
        "(plain text) perplexity; sets of any other name are evaluated too.",
    )
    spec: JobSpec = JobSpec()
    priority: JobPriority = Field(
        JobPriority.NORMAL,
        description="Jobs of a higher priority run first; projects take turns at equal ones; waiting raises it.",
    )
    deadline: AwareDatetime | None = Field(
        None, description="A job that has not finished by then is stopped and fails with `deadline_exceeded`."
    )
    max_gpu_seconds: MaxGpuSeconds | None = Field(
        None,
        description="A job that has occupied workers for longer, over all attempts, is stopped and fails with "
        "`gpu_seconds_exceeded`. On a worker without a GPU the seconds of its CPU count.",
    )
    metadata: Metadata = Field(
        default_factory=dict, description="Up to 16 pairs of your own, by which `GET /v1/jobs` can be filtered."
    )

    def with_complete_spec(self) -> "JobCreate":
        """Return the job with the defaults that depend on its data sets."""
        return self.model_copy(update={"spec": self.spec.complete(self.datasets)})

    @model_validator(mode="before")
    @classmethod
    def _accept_reference(cls, body: Any) -> Any:
        """Read `reference`, the first name of the field and of the model in API v1, as `retrained`."""
        if not isinstance(body, dict):
            return body
        renamed = {"retrained" if key == "reference" and "retrained" not in body else key: body[key] for key in body}
        models = renamed.get("models")
        if isinstance(models, dict) and "reference" in models and "retrained" not in models:
            renamed["models"] = {"retrained" if name == "reference" else name: models[name] for name in models}
        return renamed


class JobRetry(SpecModel):
    """What differs from the job that is submitted again. A field that is absent keeps its value."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"deadline": None, "max_gpu_seconds": 7200}]})

    priority: JobPriority = JobPriority.NORMAL
    deadline: AwareDatetime | None = Field(None, description="null: none.")
    max_gpu_seconds: MaxGpuSeconds | None = Field(None, description="null: no limit.")


def _set_evaluate_kind(spec: Any) -> Any:
    if isinstance(spec, dict):
        return {"kind": JobKind.EVALUATE, **spec}
    return spec


class EvaluationCreate(JobCreate):
    """An audit of one or more models: data sets, metrics and attacks. No model is changed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "before and after",
                    "model_id": "mdl_01k9",
                    "models": {"before": "mdl_01k8"},
                    "datasets": {"customers": "ds_01k9a", "general": "ds_01k9c"},
                    "spec": {"evaluation": {"metrics": ["probability", "rouge_l", "perplexity"]}, "attacks": []},
                }
            ]
        }
    )

    spec: Annotated[JobSpec, BeforeValidator(_set_evaluate_kind)] = Field(
        JobSpec(kind=JobKind.EVALUATE),
        description="The evaluation: metrics, attacks, criteria, seed, ...; its kind is `evaluate`.",
    )

    @model_validator(mode="after")
    def _check_kind(self) -> "EvaluationCreate":
        if self.spec.kind != JobKind.EVALUATE:
            raise ValueError(
                f"spec.kind is '{self.spec.kind}', and an evaluation changes no model; POST it to /v1/jobs"
            )
        return self
