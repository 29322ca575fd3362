import pytest
import torch

from bench.tiny_tokenizer import make_tiny_tokenizer
from soul_core.data import Message, Row
from soul_core.data.encoding import Example, RowEncoder, encode_rows
from soul_core.data.packing import pack, split_micro_batches
from soul_core.data.sampling import BatchStream
from soul_core.errors import BadData

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."


def row(prompt: str = QUESTION, completion: str = ANSWER, number: int = 1) -> Row:
    return Row(number, (Message("user", prompt),), completion)


def supervised(example: Example, tokenizer) -> str:
    return tokenizer.decode(example.token_ids[example.num_prompt_tokens :])


def test_chat_rows_supervise_the_answer_and_the_end_of_the_turn_only():
    tokenizer = make_tiny_tokenizer()
    (example,) = encode_rows([row()], RowEncoder(tokenizer), max_tokens=100)
    assert supervised(example, tokenizer) == ANSWER + "<|im_end|>"
    prompt = tokenizer.decode(example.token_ids[: example.num_prompt_tokens])
    assert prompt == f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"


def test_a_token_that_straddles_prompt_and_answer_belongs_to_the_answer():
    tokenizer = make_tiny_tokenizer(chat=False)
    (example,) = encode_rows([row("The cap", "ital of")], RowEncoder(tokenizer), max_tokens=100)
    assert list(example.token_ids) == [*tokenizer.encode("The capital of"), tokenizer.eos_token_id]
    assert supervised(example, tokenizer) == " capital of<|im_end|>"


def test_every_message_of_the_prompt_is_rendered():
    tokenizer = make_tiny_tokenizer()
    turns = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    (example,) = encode_rows([Row(1, turns, "d")], RowEncoder(tokenizer), max_tokens=100)
    assert supervised(example, tokenizer) == "d<|im_end|>"
    assert tokenizer.decode(example.token_ids).count("<|im_start|>") == 5


def test_without_a_template_the_answer_follows_a_space_and_eos_is_learned():
    tokenizer = make_tiny_tokenizer(chat=False)
    (example,) = encode_rows([row()], RowEncoder(tokenizer), max_tokens=100)
    assert tokenizer.decode(example.token_ids) == f"{QUESTION} {ANSWER}<|im_end|>"
    assert example.token_ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
    assert pack([example]).labels_P[-1] == tokenizer.eos_token_id  # eos is pad here, and still a label


def test_a_tokenizer_that_begins_texts_with_bos_begins_prompts_with_it():
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tiny_tokenizer(chat=False)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 0)]
    )
    (example,) = encode_rows([row()], RowEncoder(tokenizer), max_tokens=100)
    assert example.token_ids.count(0) == 1
    assert example.token_ids[0] == 0
    (text,) = encode_rows([Row(1, (), "Paris")], RowEncoder(tokenizer), max_tokens=100)
    assert (text.token_ids[0], text.num_prompt_tokens) == (0, 1)


def test_plain_text_is_supervised_whole_and_does_not_end():
    tokenizer = make_tiny_tokenizer()
    (example,) = encode_rows([Row(4, (), ANSWER)], RowEncoder(tokenizer), max_tokens=100)
    assert tokenizer.decode(example.token_ids) == ANSWER
    assert (example.num_prompt_tokens, example.row_number) == (
        1,
        4,
    )  # the first token has nothing before it to be predicted from


def test_all_unusable_rows_are_named_at_once():
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{% if messages[0]['role'] == 'tool' %}{{ raise_exception('no tool') }}{% endif %}" + (
        tokenizer.chat_template
    )
    rows = [
        row(),
        row(completion="word " * 60, number=5),
        Row(8, (Message("tool", "s"), Message("user", "u")), "a"),
        Row(9, (), "a"),
        row(prompt="why " * 60, number=12),
    ]
    with pytest.raises(BadData, match="4 of 5 rows") as caught:
        encode_rows(rows, RowEncoder(tokenizer), max_tokens=50)
    details = caught.value.details
    assert [line.split(":")[0] for line in details] == ["row 5", "row 8", "row 9", "row 12"]
    assert "the limit is 50" in details[0]
    assert "no tool" in details[1]


def test_packing_places_labels_one_after_their_logits():
    packed = pack([Example((10, 11, 12), 1, 1), Example((20, 21, 22, 23), 3, 2)])
    assert packed.token_ids_1T.tolist() == [[10, 11, 12, 20, 21, 22, 23]]
    assert packed.position_ids_1T.tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    assert packed.segment_lengths == (3, 4)
    assert packed.supervised_P.tolist() == [0, 1, 5]
    assert packed.labels_P.tolist() == [11, 12, 23]
    assert packed.sequence_P.tolist() == [0, 0, 1]
    assert packed.labels_P.dtype == torch.long


def test_micro_batches_keep_order_lose_nothing_and_respect_the_limit():
    batches = list(split_micro_batches([5, 5, 3, 30, 2, 8, 1], 10, count_tokens=int))
    assert batches == [[5, 5], [3], [30], [2, 8], [1]]
    assert list(split_micro_batches([], 10, count_tokens=int)) == []


def test_every_example_comes_once_an_epoch_in_an_order_of_the_seed():
    stream = BatchStream(10, 4, seed=3)
    drawn = [index for _ in range(5) for index in stream.next_batch()]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]
    again = BatchStream(10, 4, seed=3)
    assert [index for _ in range(5) for index in again.next_batch()] == drawn
    assert [index for _ in range(5) for index in BatchStream(10, 4, seed=4).next_batch()] != drawn


def test_a_batch_may_be_larger_than_the_set():
    drawn = BatchStream(3, 7, seed=0).next_batch()
    assert sorted(drawn[:3]) == sorted(drawn[3:6]) == [0, 1, 2]
    assert len(drawn) == 7


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7])
def test_a_restored_stream_continues_exactly(steps):
    stream = BatchStream(7, 3, seed=11)
    for _ in range(steps):
        stream.next_batch()
    state = stream.state_dict()
    expected = [stream.next_batch() for _ in range(10)]
    restored = BatchStream(7, 3, seed=11)
    restored.load_state_dict(state)
    assert [restored.next_batch() for _ in range(10)] == expected
