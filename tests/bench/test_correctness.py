"""One command makes the tables of docs/reference/correctness.md."""

from pathlib import Path

import pytest

from bench.chat_templates import TEMPLATES
from bench.correctness import MAX_DIFFERENCE, main
from bench.template_correctness import compare_template
from bench.tiny_architectures import ARCHITECTURES


def test_the_command_prints_a_row_per_architecture_and_fails_above_its_limit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["Llama", "Falcon, ALiBi"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["Llama", "Falcon, ALiBi (1)"]
    assert "adds the ALiBi bias twice" in lines[-1]
    assert main(["Llama", "--limit", "1e-12"]) == 1


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_chat_template_is_scored_as_plain_transformers_scores_it(name: str, tmp_path: Path) -> None:
    comparison = compare_template(name, tmp_path / "model")

    assert comparison.same_tokens
    assert comparison.same_prompt
    assert comparison.logp <= MAX_DIFFERENCE


def test_the_page_has_the_row_of_every_architecture_and_template() -> None:
    page = Path("docs/reference/correctness.md").read_text()

    assert [name for name in [*ARCHITECTURES, *TEMPLATES] if f"\n| {name}" not in page] == []
