"""Checks at registration that a model's chat template can be used, before a job needs a GPU. Torch-free.

A template is a program, so `python -m soul_core.chat.inspection` renders it in a child process with limited time and
memory.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from soul_core.chat.template import ChatTemplate, TemplateError, check_syntax, find_variables
from soul_core.errors import BadModel

_CPU_SECONDS, _SECONDS, _MEMORY_BYTES = 3, 20, 1 << 30
_QUESTION, _SYSTEM, _ANSWER = "Where does the river Kappa rise?", "Answer in one sentence.", "It rises near Lund."


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What a chat template does when it is rendered."""

    asks_for_date: bool
    """It may write the current date, which the job's `template_date` then determines."""
    takes_system_turn: bool
    """It accepts a system turn; otherwise the system text moves into the first user turn."""
    before_answer: str
    """What it writes between the generation prompt and an answer, such as an empty thinking block."""
    variables: tuple[str, ...]
    """Further variables it reads, which `chat_template_kwargs` can set."""


def inspect_template(source: str, special_tokens: Mapping[str, str]) -> TemplateFacts:
    """Render a template in a child process and return what it does.

    Raises:
        BadModel: the template cannot be used.
    """
    question = json.dumps({"source": source, "special_tokens": dict(special_tokens)})
    try:
        child = subprocess.run(
            [sys.executable, "-m", "soul_core.chat.inspection"],
            input=question,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        answer = json.loads(child.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise BadModel(
            "the model's chat template takes too long or too much memory to render one question; "
            "correct chat_template.jinja"
        ) from error
    if "error" in answer:
        raise BadModel(answer["error"])
    return TemplateFacts(**answer | {"variables": tuple(answer["variables"])})


def find_template_facts(source: str, special_tokens: Mapping[str, str]) -> TemplateFacts:
    """Return what a template does.

    Raises:
        TemplateError: the template cannot be used.
    """
    check_syntax(source)
    template = ChatTemplate(source, special_tokens, date=date(2024, 7, 26))
    question = [{"role": "user", "content": _QUESTION}]
    if _QUESTION not in template.render(question, generation_prompt=True):
        raise TemplateError("the model's chat template does not show the user's question")
    template.locate_answer(question, _ANSWER)
    try:
        with_system = [{"role": "system", "content": _SYSTEM}, *question]
        takes_system_turn = _SYSTEM in template.render(with_system, generation_prompt=True)
    except TemplateError:
        takes_system_turn = False
    return TemplateFacts(
        asks_for_date=template.asks_for_date,
        takes_system_turn=takes_system_turn,
        before_answer=template.get_answer_prefix(question),
        variables=find_variables(source, special_tokens),
    )


def read_folder_template(folder: Path) -> tuple[str, dict[str, str]] | None:
    """Return the chat template of a folder as transformers reads it, and its special tokens; None if it has none."""
    config = _json(folder / "tokenizer_config.json") | _json(folder / "special_tokens_map.json")
    template = config.get("chat_template")
    if (file := folder / "chat_template.jinja").is_file():
        template = file.read_text(encoding="utf-8")
    if isinstance(template, list):
        templates = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = templates.get("default")
    tokens = {name: value for name, value in config.items() if name.endswith("_token")}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in tokens.items()}
    return (template, {name: text for name, text in texts.items() if isinstance(text, str)}) if template else None


def read_gguf_template(metadata: Mapping[str, Any]) -> tuple[str, dict[str, str]] | None:
    """Return the chat template in the metadata of a GGUF file, and its special tokens; None if it has none."""
    tokens = metadata.get("tokenizer.ggml.tokens") or ()
    ids = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    texts = {f"{name}_token": tokens[i] for name, i in ids.items() if isinstance(i, int) and i < len(tokens)}
    template = metadata.get("tokenizer.chat_template")
    return (str(template), texts) if template else None


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_bytes()) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def main() -> int:
    """Read one template from stdin, and write its facts or the error as JSON."""
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    question = json.load(sys.stdin)
    try:
        answer = asdict(find_template_facts(question["source"], question["special_tokens"]))
    except (TemplateError, MemoryError, RecursionError) as error:
        answer = {"error": str(error) or "the model's chat template cannot be rendered"}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
