"""A whole checkpoint, as plain transformers loads it: weights in their export dtype, config, tokenizer, probe."""

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

_SHARD = "5GB"
_GENERATION = "generation_config.json"


def export_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, dtypes: ExportDtypes = FLOAT32
) -> None:
    """Write safetensors in shards of 5 GB, config, tokenizer and probe. What was there before is replaced.

    The weights must be rounded to `dtypes` already: the file's are compared with the model's, bit by bit.
    Raises EngineError when they differ.
    """
    if folder.exists():
        shutil.rmtree(folder)
    base = find_base_folder(model)
    with translate_disk_errors("the checkpoint"):
        folder.mkdir(parents=True)
        content = make_portable_config(model, base, dtype=dtypes.default)
        state = make_export_state_dict(model, dtypes)
        _mend_generation_config(model)
        model.save_pretrained(folder, state_dict=dict(state), max_shard_size=_SHARD)
        write_config(content, folder)
        if base is not None and (base / _GENERATION).is_file():
            shutil.copyfile(base / _GENERATION, folder / _GENERATION)
        write_tokenizer(tokenizer, base, folder)
        _require_as_measured(folder, model)
        compute_load_probe(model, tokenizer, dtype=dtypes.name, versions=get_library_versions()).write(folder)


def get_library_versions() -> dict[str, str]:
    """Return the versions of what computes a probe."""
    return {name: version for name, version in get_versions().items() if name in {"torch", "transformers"}}


@torch.no_grad()
def _require_as_measured(folder: Path, model: PreTrainedModel) -> None:
    """Compare the file's weights with the model's. Tensors that saving names otherwise are left to the probe."""
    state = model.state_dict()
    for path in list_weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  not a mapping
                if name in state and not torch.equal(file.get_tensor(name).to(state[name]), state[name]):
                    raise EngineError(f"the exported tensor {name} is not the measured one; this is a fault of SOUL")


def _mend_generation_config(model: Any) -> None:
    """Drop a generation config that transformers itself would refuse to save: some published models carry one."""
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    try:
        config.validate(strict=True)
    except ValueError:
        mended = GenerationConfig.from_model_config(model.config)
        mended.eos_token_id, mended.pad_token_id = config.eos_token_id, config.pad_token_id
        model.generation_config = mended
