"""The bodies that make jobs: POST /v1/jobs, /v1/estimates and /v1/evaluations."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from api.schemas.jobs import SetName
from soul_core.spec import JobSpec, Training
from soul_core.spec.optimizers import AdamW, Optimizer
from soul_core.spec.terms import SET_NAME_PATTERN, SpecModel

ModelName = Annotated[str, Field(pattern=SET_NAME_PATTERN)]


class NoRetrainedModel(SpecModel):
    """Nothing to compare with: metrics that need the retrained model are absent, and say so."""

    kind: Literal["none"] = "none"


class RegisteredRetrainedModel(SpecModel):
    """A model retrained without the forget set that is registered here; the same as `models.retrained`."""

    kind: Literal["model"] = "model"
    model_id: str = Field(description="The retrained model.")


class RetrainedModelLog(SpecModel):
    """What an earlier job measured of the reference: the model itself need not be loaded again.

    Its rows are matched by content, in whatever order they stood; a log of other rows fails the job.
    """

    kind: Literal["log"] = "log"
    job_id: str | None = Field(
        None,
        description="A job with a log: of its own reference (logs/retrained.json); else, of a job of kind finetune or "
        "evaluate, of the model it judged.",
    )
    artifact_id: str | None = Field(
        None, description="Or the very file: logs/NAME.json or report.json of a job's artifacts."
    )

    @model_validator(mode="after")
    def _one(self) -> "RetrainedModelLog":
        if (self.job_id is None) == (self.artifact_id is None):
            raise ValueError("give either job_id or artifact_id")
        return self


class RetrainModel(SpecModel):
    """Retrain one first: a job of kind finetune on the `retain` data set, which this job waits for.

    One that was made, or is being made, with the same model, rows and settings is found again. Cancelling the waiting
    job does not cancel it: it serves the next one.
    """

    kind: Literal["retrain"] = "retrain"
    model_id: str = Field(description="The model before it ever saw the forget set.")
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

    name: str = Field("", max_length=200, description="For people.")
    model_id: str = Field(description="The base model; of an evaluation the model that is judged.")
    models: dict[ModelName, str] = Field(
        default_factory=dict,
        description="Name -> id of models measured in addition: `retrained`, the one retrained without the forget set; "
        "in an evaluation any name.",
    )
    retrained: RetrainedModelSource = NoRetrainedModel()
    datasets: dict[SetName, str] = Field(
        description="Set name -> data set id. Kind unlearn needs `forget`, and `retain` for most retain terms; kind "
        "finetune needs `train`. `holdout` (like the forget set, never seen) serves membership inference, `general` "
        "(plain text) perplexity; any other name is measured too."
    )
    spec: JobSpec = JobSpec()

    @model_validator(mode="before")
    @classmethod
    def _accept_reference(cls, body: Any) -> Any:
        """Read `reference`, the field's and the model's first name in API v1, as `retrained`."""
        if not isinstance(body, dict):
            return body
        renamed = {"retrained" if key == "reference" and "retrained" not in body else key: body[key] for key in body}
        models = renamed.get("models")
        if isinstance(models, dict) and "reference" in models and "retrained" not in models:
            renamed["models"] = {"retrained" if name == "reference" else name: models[name] for name in models}
        return renamed


def _evaluate(spec: Any) -> Any:
    if isinstance(spec, dict):
        return {"kind": "evaluate", **spec}
    return spec


class EvaluationCreate(JobCreate):
    """An audit: which model, which others beside it, which data sets, which metrics and attacks. Nothing is changed."""

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

    spec: Annotated[JobSpec, BeforeValidator(_evaluate)] = Field(
        JobSpec(kind="evaluate"),
        description="What is measured: evaluation, attacks, criteria, seed, ...; its kind is `evaluate`.",
    )

    @model_validator(mode="after")
    def _only_evaluates(self) -> "EvaluationCreate":
        if self.spec.kind != "evaluate":
            raise ValueError(f"spec.kind is '{self.spec.kind}': an evaluation changes no model; POST it to /v1/jobs")
        return self
