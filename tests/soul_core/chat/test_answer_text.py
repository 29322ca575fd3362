"""What a model writes is split into the answer and the preamble before it."""

import pytest

from bench.chat_templates import TEMPLATES, make_tokenizer
from soul_core.chat.answer_text import AnswerText, split_answer
from soul_core.data.encoding import ChatSettings, RowEncoder


@pytest.mark.parametrize(
    ("text", "preamble", "answer"),
    [
        ("Paris.", "", "Paris."),
        ("<think>\n\n</think>\n\nParis.", "<think>\n\n</think>\n\n", "Paris."),
        ("<think>The Seine </think> flows</think>Paris.", "<think>The Seine </think> flows</think>", "Paris."),
        ("\n<think>\nLet me see. The capital is Paris, I", "\n<think>\nLet me see. The capital is Paris, I", ""),
        ("[THINK]hm[/THINK]Paris.", "[THINK]hm[/THINK]", "Paris."),
        (
            "<|channel|>analysis<|message|>Paris?<|end|><|start|>assistant<|channel|>final<|message|>Paris.",
            "<|channel|>analysis<|message|>Paris?<|end|><|start|>assistant<|channel|>final<|message|>",
            "Paris.",
        ),
        ("<|channel|>analysis<|message|>It may be Par", "<|channel|>analysis<|message|>It may be Par", ""),
        ("I think </b> is a tag.", "", "I think </b> is a tag."),
        ("2 < 3 and 3 > 2", "", "2 < 3 and 3 > 2"),
    ],
)
def test_thinking_and_channels_are_not_part_of_the_answer(text: str, preamble: str, answer: str) -> None:
    split = split_answer(text)

    assert (split.preamble, split.answer) == (preamble, answer)


def test_a_block_that_the_prompt_opened_ends_before_the_answer() -> None:
    opened = "<|Assistant|><think>\n"

    assert split_answer("It is France.\n</think>\n\nParis.", prompt=opened).answer == "Paris."
    assert split_answer("It is France, so Par", prompt=opened) == AnswerText("It is France, so Par", "")


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_what_a_template_writes_before_an_answer_is_removed_from_the_answer(name: str) -> None:
    """A model that learned its template writes what the template has after the generation prompt."""
    encoder = RowEncoder(make_tokenizer(TEMPLATES[name]), ChatSettings())
    template = encoder.template
    assert template is not None
    prefix = template.get_answer_prefix([{"role": "user", "content": "Who?"}])
    prefix = prefix or ("</think>" if name == "opened" else "")  # its prompt opens the block
    tokens = encoder.tokenizer.encode(prefix + "Paris it is." + "<|im_end|>", add_special_tokens=False)

    split = encoder.decode_answer(tokens)

    assert split.answer == "Paris it is."
    assert split.preamble.strip() == prefix.strip()
