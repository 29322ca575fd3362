"""Scores: of supervised positions only, and equal for packed and separate examples."""

import pytest
import torch

from bench.tiny_architectures import build_tiny, make_config
from soul_core.data.encoding import Example, encode_rows
from soul_core.data.packing import pack, pack_groups
from soul_core.models.capabilities import BatchLayout, Capabilities, set_capabilities
from soul_core.models.layers import find_decoder_layers
from soul_core.models.loading import LoadedModel
from soul_core.models.packed_attention import PACKED_ATTENTION
from soul_core.models.scoring import Scores, score
from tests.fixtures.architectures import PACKED_ARCHITECTURES
from tests.fixtures.capitals import COUNTRIES, rows_of


@pytest.fixture
def examples(loaded: LoadedModel) -> list[Example]:
    return encode_rows(rows_of(list(COUNTRIES)[:4]), loaded.encoder, max_tokens=128)


def test_the_vocabulary_is_projected_at_supervised_positions_only(loaded: LoadedModel, examples: list[Example]) -> None:
    seen: list[torch.Size] = []
    hook = loaded.model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(out.shape))

    score(loaded.model, pack(examples))

    hook.remove()
    supervised = sum(len(example.token_ids) - example.num_prompt_tokens for example in examples)
    assert [shape[1] for shape in seen] == [supervised]
    assert supervised < sum(len(example.token_ids) for example in examples) / 2


def test_padding_that_equals_the_end_token_is_never_a_label(loaded: LoadedModel, examples: list[Example]) -> None:
    # Upstream counts the labels of padding; here there is none, and the one end token of each answer counts.
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id or loaded.tokenizer.pad_token_id is not None

    scores = score(loaded.model, pack(examples))

    expected = [example.token_ids[example.num_prompt_tokens :] for example in examples]
    assert scores.labels_P.tolist() == [token for answer in expected for token in answer]
    assert scores.length_B.tolist() == [len(answer) for answer in expected]


def test_packed_scores_and_gradients_equal_those_of_single_examples(
    loaded: LoadedModel, examples: list[Example]
) -> None:
    def compute_gradients(batches: list[list[Example]]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        loaded.model.zero_grad(set_to_none=True)
        values = []
        for batch in batches:
            summed_B = score(loaded.model, pack(batch)).sequence_logp_B
            summed_B.sum().backward()
            values.append(summed_B.detach())
        return [p.grad.clone() for p in loaded.model.parameters() if p.grad is not None], [torch.cat(values)]

    packed = compute_gradients([examples])
    separate = compute_gradients([[example] for example in examples])

    for actual, expected in zip(packed[0] + packed[1], separate[0] + separate[1], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)


def test_a_selection_keeps_every_value_and_renumbers() -> None:
    scores = Scores(
        logits_PV=torch.arange(10.0).reshape(5, 2),
        labels_P=torch.tensor([0, 1, 0, 1, 0]),
        logp_P=torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0]),
        sequence_P=torch.tensor([0, 0, 1, 2, 2]),
        num_sequences=3,
        hidden_PD=torch.arange(5.0)[:, None],
    )

    selection = scores.select([2, 0])

    assert selection.num_sequences == 2
    assert selection.sequence_logp_B.tolist() == [-9.0, -3.0]
    assert selection.length_B.tolist() == [2, 2]
    assert selection.labels_P.tolist() == [1, 0, 0, 1]
    assert selection.logits_PV[:, 0].tolist() == [6.0, 8.0, 0.0, 2.0]
    assert selection.hidden_PD is not None
    assert selection.hidden_PD[:, 0].tolist() == [3.0, 4.0, 0.0, 1.0]


@pytest.mark.parametrize("architecture", PACKED_ARCHITECTURES)
def test_hidden_states_are_the_layers_output_at_the_positions_that_predict(architecture: str) -> None:
    torch.set_num_threads(1)
    config = make_config(architecture)
    model = build_tiny(config, attn_implementation=PACKED_ATTENTION)
    examples = [Example((5, 6, 7, 8, 9, 10, 11), 3, 1), Example((12, 13, 14, 15), 1, 2)]

    scores = score(model, pack(examples), layer=find_decoder_layers(model)[0])

    assert scores.hidden_PD is not None
    expected = []
    for example in examples:  # single, in an ordinary call
        output = model(torch.tensor([example.token_ids]), use_cache=False, output_hidden_states=True)
        expected.append(output.hidden_states[1][0, example.num_prompt_tokens - 1 : -1])
    torch.testing.assert_close(scores.hidden_PD, torch.cat(expected), rtol=1e-3, atol=1e-4)
    assert scores.hidden_PD.requires_grad


def test_no_hook_stays_on_the_layer(loaded: LoadedModel, examples: list[Example]) -> None:
    layer = find_decoder_layers(loaded.model)[0]

    score(loaded.model, pack(examples), layer=layer)

    assert not layer._forward_hooks
    assert score(loaded.model, pack(examples)).hidden_PD is None


@pytest.mark.parametrize("batches", ["packed", "padded"])
def test_answers_that_share_a_prompt_score_as_single_ones(loaded: LoadedModel, batches: BatchLayout) -> None:
    """Where a template writes a space before an answer, the first letter decides which token the space belongs to."""
    prompt = (5, 6, 7, 8)
    group = [
        Example((*prompt, 9, 20, 21), 5, 1),
        Example((*prompt, 30, 31), 4, 2),
        Example((*prompt, 9, 40, 41, 42), 5, 3),
    ]
    set_capabilities(loaded.model, Capabilities(batches))

    together = score(loaded.model, pack_groups([group, [group[0]]]))

    alone = torch.cat([score(loaded.model, pack([example])).logp_P for example in [*group, group[0]]])
    assert together.logp_P.shape == alone.shape
    assert torch.allclose(together.logp_P, alone, atol=1e-5)
