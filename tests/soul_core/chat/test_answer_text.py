"""The answer is cut out of what a model writes; what stands before it is kept apart."""

import pytest

from bench.chat_templates import TEMPLATES, make_tokenizer
from soul_core.chat.answer_text import split_answer
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
    found = split_answer(text)

    assert (found.preamble, found.answer) == (preamble, answer)
    assert found.is_unfinished == (answer == "")


def test_a_block_that_the_prompt_opened_ends_before_the_answer() -> None:
    opened = "<|Assistant|><think>\n"

    assert split_answer("It is France.\n</think>\n\nParis.", prompt=opened).answer == "Paris."
    assert split_answer("It is France, so Par", prompt=opened).is_unfinished


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_what_a_template_writes_before_an_answer_is_cut_where_the_model_writes_it(name: str) -> None:
    """A model that learned its template writes what the template has after the generation prompt."""
    encoder = RowEncoder(make_tokenizer(TEMPLATES[name]), ChatSettings())
    template = encoder.template
    assert template is not None
    lead = template.get_answer_prefix([{"role": "user", "content": "Who?"}])
    lead = lead or ("</think>" if name == "opened" else "")  # its prompt opens the block
    tokens = encoder.tokenizer.encode(lead + "Paris it is." + "<|im_end|>", add_special_tokens=False)

    found = encoder.decode_answer(tokens)

    assert found.answer == "Paris it is."
    assert found.preamble.strip() == lead.strip()
