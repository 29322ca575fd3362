"""Write a complete checkpoint that plain transformers loads: weights in their export type, config, tokenizer, probe."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from soul_core.atomic_io import translate_disk_errors
from soul_core.environment import get_versions
from soul_core.errors import EngineError
from soul_core.models.stored_dtypes import list_weight_files
from soul_core.outputs.config_file import make_portable_config, write_config
from soul_core.outputs.dtypes import FLOAT32, ExportDtypes, find_base_folder, make_export_state_dict
from soul_core.outputs.load_probe import compute_load_probe
from soul_core.outputs.tokenizer_files import write_tokenizer

_SHARD_SIZE = "5GB"
_GENERATION_CONFIG = "generation_config.json"


def export_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, dtypes: ExportDtypes = FLOAT32
) -> None:
    """Write safetensors in shards of 5 GB, config, tokenizer and probe. An existing folder is replaced.

    The weights must be rounded to `dtypes` already: those in the files are compared with the model's, bit by bit.
    Raises EngineError if they differ.
    """
    if folder.exists():
        shutil.rmtree(folder)
    base = find_base_folder(model)
    with translate_disk_errors("the checkpoint"):
        folder.mkdir(parents=True)
        content = make_portable_config(model, base, dtype=dtypes.default)
        state = make_export_state_dict(model, dtypes)
        _repair_generation_config(model)
        model.save_pretrained(folder, state_dict=dict(state), max_shard_size=_SHARD_SIZE)
        write_config(content, folder)
        if base is not None and (base / _GENERATION_CONFIG).is_file():
            shutil.copyfile(base / _GENERATION_CONFIG, folder / _GENERATION_CONFIG)
        write_tokenizer(tokenizer, base, folder)
        _require_equal_weights(folder, model)
        compute_load_probe(model, tokenizer, dtype=dtypes.name, versions=get_library_versions()).write(folder)


def get_library_versions() -> dict[str, str]:
    """Return the versions of the libraries that compute a probe."""
    return {name: version for name, version in get_versions().items() if name in {"torch", "transformers"}}


@torch.no_grad()
def _require_equal_weights(folder: Path, model: PreTrainedModel) -> None:
    """Compare the weights in the files with the model's. The probe checks tensors that saving renames."""
    state = model.state_dict()
    for path in list_weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  not a mapping
                if name in state and not torch.equal(file.get_tensor(name).to(state[name]), state[name]):
                    raise EngineError(
                        f"the exported tensor {name} differs from the measured one; report this bug of SOUL"
                    )


def _repair_generation_config(model: Any) -> None:
    """Replace a generation config that transformers refuses to save. Some published models have one."""
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    try:
        config.validate(strict=True)
    except ValueError:
        repaired = GenerationConfig.from_model_config(model.config)
        repaired.eos_token_id, repaired.pad_token_id = config.eos_token_id, config.pad_token_id
        model.generation_config = repaired
