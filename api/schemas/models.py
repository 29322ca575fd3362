"""The bodies of models."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from api.schemas.common import LINE_PATTERN, Name, ResponseModel
from soul_core.spec.terms import SpecModel

_LOCATION_DESCRIPTION = (
    "Absolute path below one of SOUL_MODEL_ROOTS. The files are registered as they are now: a job on files that have "
    "changed since fails and names both digests."
)


#: A part of a hub id: letters, digits, dots, dashes, underscores; not a dash or dot at an end.
_HUB_NAME = "[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REVISION = r"^[A-Za-z0-9._][A-Za-z0-9._/-]{0,199}$"


class HubModel(SpecModel):
    """A model of the hub, pinned to the current commit of its revision."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"source": "hub", "location": "HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "main"}]
        }
    )

    source: Literal["hub"]
    location: str = Field(
        pattern=rf"^{_HUB_NAME}(/{_HUB_NAME})?$",
        max_length=96,
        examples=["HuggingFaceTB/SmolLM2-135M-Instruct"],
    )
    revision: str | None = Field(
        None,
        pattern=_REVISION,
        description="Branch, tag or commit; default: the main branch.",
    )
    name: Name | None = None


class LocalModel(SpecModel):
    """A folder with config.json, tokenizer and safetensors on the server's own disk."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"source": "local", "location": "/models/support-bot", "name": "support bot"}]}
    )

    source: Literal["local"]
    location: str = Field(max_length=4096, pattern=LINE_PATTERN, description=_LOCATION_DESCRIPTION)
    name: Name | None = None


class GgufModel(SpecModel):
    """A GGUF file on the server's own disk; dequantized when it is used.

    Supported architectures: llama, qwen2, qwen3, gemma2, gemma3, phi3, stablelm, starcoder2, falcon, gpt2.
    Keys that the file omits have llama.cpp's defaults.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"source": "gguf", "location": "/models/SmolLM2-135M-Instruct.Q4_1.gguf"}]}
    )

    source: Literal["gguf"]
    location: str = Field(max_length=4096, pattern=LINE_PATTERN, description=_LOCATION_DESCRIPTION)
    name: Name | None = None


class JobModel(SpecModel):
    """The checkpoint that a job made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"source": "job", "location": "job_01k9"}]})

    source: Literal["job"]
    location: str = Field(max_length=64, description="The job's id.", examples=["job_01k9"])
    name: Name | None = None


ModelCreate = Annotated[HubModel | LocalModel | GgufModel | JobModel, Field(discriminator="source")]


class ModelOut(ResponseModel):
    """A registered model."""

    id: str
    name: str
    source: Literal["hub", "local", "gguf", "job"]
    location: str
    revision: str | None
    digest: str | None = Field(
        description="sha256 over the names and hashes of its files; of a hub model its commit. Each job checks it."
    )
    facts: dict[str, Any] = Field(description="architecture, num_parameters, context_tokens, chat_template, ...")
    parent_job_id: str | None
    created_at: datetime
