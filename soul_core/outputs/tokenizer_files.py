"""Write the tokenizer's files: copies of the base model's own if it is the same tokenizer; for transformers 5 and 4.57.

transformers 5 writes a class name that 4.57 does not know, and a list of extra tokens where 4.57 expects a mapping.
Both are rewritten in the form that both versions read.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "vocab.json", "vocab.txt", "merges.txt", "*.model",
)  # fmt: skip
_TEMPLATES = "additional_chat_templates"
#: Classes that only transformers 5 has. `PreTrainedTokenizerFast` reads tokenizer.json in both versions.
_CLASSES_5X = frozenset({"TokenizersBackend"})
_KNOWN_CLASS = "PreTrainedTokenizerFast"
#: Facts that 5.x records about the process that wrote the file.
_PROCESS_KEYS = ("backend", "is_local", "local_files_only")


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, base: Path | None, folder: Path) -> None:
    """Write the tokenizer so that transformers 5 and 4.57 read the same tokenizer."""
    original = _load(base) if base is not None else None
    if base is None or original is None or _get_token_rules(original) != _get_token_rules(tokenizer):
        tokenizer.save_pretrained(folder)
    else:
        _copy(base, folder)
        if original.chat_template != tokenizer.chat_template:
            _replace_template(tokenizer.chat_template, folder)
    _translate(folder)


def _load(base: Path) -> PreTrainedTokenizerBase | None:
    try:
        return AutoTokenizer.from_pretrained(base, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError):
        return None


def _get_token_rules(tokenizer: Any) -> tuple[Any, ...]:
    """Return what determines token ids. Padding does not: loading sets its side and token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str()) if backend is not None else sorted(tokenizer.get_vocab().items())
    if isinstance(content, dict):
        content |= {"padding": None, "truncation": None}
    return content, tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token


def _copy(base: Path, folder: Path) -> None:
    for path in sorted({path for pattern in _FILES for path in base.glob(pattern) if path.is_file()}):
        shutil.copyfile(path, folder / path.name)
    if (base / _TEMPLATES).is_dir():
        shutil.copytree(base / _TEMPLATES, folder / _TEMPLATES)


def _replace_template(template: str | None, folder: Path) -> None:
    """Write the chat template that the run used, which is the user's and not the base model's."""
    for name in ("chat_template.jinja", "chat_template.json"):
        (folder / name).unlink(missing_ok=True)
    config = folder / "tokenizer_config.json"
    if config.is_file():
        content = json.loads(config.read_text(encoding="utf-8"))
        if content.pop("chat_template", None) is not None:
            _write_json(config, content)
    if isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _translate(folder: Path) -> None:
    """Rewrite what 4.57 cannot read in tokenizer_config.json. A file that 4.57 can read is unchanged."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    is_of_5x = "backend" in content or content.get("tokenizer_class") in _CLASSES_5X
    extra = content.get("extra_special_tokens")
    if not is_of_5x and not isinstance(extra, list):
        return
    for key in _PROCESS_KEYS:
        content.pop(key, None)
    if isinstance(extra, list):
        del content["extra_special_tokens"]
        listed = content.get("additional_special_tokens") or []
        content["additional_special_tokens"] = [*listed, *(token for token in extra if token not in listed)]
    if is_of_5x and (folder / "tokenizer.json").is_file():
        content["tokenizer_class"] = _KNOWN_CLASS
    _write_json(path, content)
