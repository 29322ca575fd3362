"""Registration renders a template with limited time and memory, and refuses one that cannot be used."""

import json
from pathlib import Path

import pytest

from bench.chat_templates import CHATML, DATED, STRICT, TEMPLATES, THINKING, make_tokenizer
from soul_core.chat.inspection import inspect_template, read_folder_template
from soul_core.errors import BadModel

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("name", ["inst", "channels", "marked", "named"])
def test_a_usable_template_is_accepted(name: str) -> None:
    assert not inspect_template(TEMPLATES[name], TOKENS).asks_for_date


def test_the_facts_describe_date_system_turn_prefix_and_variables() -> None:
    assert inspect_template(DATED, TOKENS).asks_for_date
    assert not inspect_template(STRICT, TOKENS).takes_system_turn
    thinking = inspect_template(THINKING, TOKENS)
    assert thinking.takes_system_turn
    assert thinking.before_answer == "<think>\n\n</think>\n\n"
    assert "enable_thinking" in thinking.variables


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "does not show the user's question"),
        (CHATML.replace("m['content']", "(m['content'] | lower)"), "does not show|changes the answer"),
        (CHATML + "{% include 'other' %}", "refuses these messages"),
        ("{% if %}", "not valid: line 1"),
        ("{{ ''.__class__.__mro__ }}" + CHATML, "refuses these messages"),
        (
            "{% for i in range(9999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
            "too long or too much memory",
        ),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_a_reason(template: str, match: str) -> None:
    with pytest.raises(BadModel, match=match):
        inspect_template(template, TOKENS)


def test_a_folder_has_the_template_that_transformers_reads(tmp_path: Path) -> None:
    make_tokenizer(THINKING).save_pretrained(tmp_path)
    template = read_folder_template(tmp_path)
    assert template is not None
    assert (template[0], template[1]["eos_token"]) == (THINKING, "<|im_end|>")

    (tmp_path / "chat_template.jinja").unlink()
    config = tmp_path / "tokenizer_config.json"
    named = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": THINKING}]
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": named}))
    assert read_folder_template(tmp_path)[0] == CHATML  # type: ignore[index]

    config.write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    assert read_folder_template(tmp_path) is None
