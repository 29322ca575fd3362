"""One model with packed and with padded batches: everything that scores a pack gives the same results."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.tiny_architectures import save_tiny
from soul_core.data.encoding import Example
from soul_core.data.packing import pack, pack_groups
from soul_core.models.capabilities import Capabilities, set_capabilities
from soul_core.models.forward_calls import compute_logits, make_forward_calls
from soul_core.models.layers import find_decoder_layers
from soul_core.models.loading import LoadedModel, load_model
from soul_core.models.scoring import score
from soul_core.spec import JobSpec
from soul_core.training.micro_batching import BatchItem
from soul_core.training.second_order import gauss_newton_vector_product, hessian_vector_product
from soul_core.training.step import compute_nll_gradients, get_trainable_parameters
from tests.fixtures.capitals import write_rows
from tests.fixtures.tiny_derivatives import batcher, flat
from tests.soul_core.test_run import FORGET, RETAIN, Recorder


@pytest.fixture(scope="module", name="loaded")
def load_llama(tmp_path_factory) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(save_tiny("Llama", tmp_path_factory.mktemp("model") / "model"), device="cpu")


@pytest.fixture(name="padded")
def use_padded_batches(loaded) -> Iterator[LoadedModel]:
    """The same model with the capabilities of one that cannot take packed batches."""
    set_capabilities(loaded.model, Capabilities("padded"))
    yield loaded
    set_capabilities(loaded.model, Capabilities("packed"))


def run_both_ways(loaded: LoadedModel, work) -> tuple:
    """Return the result of `work` on packed and on padded batches."""
    set_capabilities(loaded.model, Capabilities("packed"))
    packed = work()
    set_capabilities(loaded.model, Capabilities("padded"))
    padded = work()
    set_capabilities(loaded.model, Capabilities("packed"))
    return packed, padded


def make_examples(*lengths: int) -> list[Example]:
    generator = torch.Generator().manual_seed(3)
    return [
        Example(tuple(torch.randint(3, 300, (length,), generator=generator).tolist()), 1, row)
        for row, length in enumerate(lengths, start=1)
    ]


def make_groups() -> list[list[Example]]:
    prompt = (9, 8, 7)
    answers = [Example((*prompt, *make_examples(length)[0].token_ids), 3, 9) for length in (4, 11, 2)]
    return [[example] for example in make_examples(5, 90, 7)] + [answers]


def test_scores_hidden_states_and_projection_inputs_are_the_same_in_the_same_order(loaded):
    layer = find_decoder_layers(loaded.model)[0]

    packed, padded = run_both_ways(
        loaded, lambda: score(loaded.model, pack_groups(make_groups()), layer=layer, with_head_input=True)
    )

    for name in ("logits_PV", "logp_P", "hidden_PD", "head_input_PD"):
        torch.testing.assert_close(getattr(padded, name), getattr(packed, name), atol=1e-5, rtol=1e-5)
    assert torch.equal(padded.sequence_P, packed.sequence_P)


def test_gradients_and_second_derivatives_are_the_same(loaded):
    units = [(BatchItem("retain", index, example),) for index, example in enumerate(make_examples(9, 4, 20))]
    vector = [torch.ones_like(parameter) for parameter in get_trainable_parameters(loaded)]

    def work() -> list[torch.Tensor]:
        return [
            flat(compute_nll_gradients(loaded, units, batcher())[0]),
            flat(hessian_vector_product(loaded, units, batcher(), vector)),
            flat(gauss_newton_vector_product(loaded, units, batcher(), vector)),
        ]

    packed, padded = run_both_ways(loaded, work)

    for actual, expected in zip(padded, packed, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_only_supervised_positions_reach_the_vocabulary_projection(padded):
    seen = []
    hook = padded.model.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape)
    )

    scores = score(padded.model, pack([Example(tuple(range(3, 60)), 50, 1), Example(tuple(range(3, 50)), 45, 2)]))
    hook.remove()

    assert sum(shape[1] for shape in seen) == len(scores.labels_P) == 9


def test_rows_of_similar_length_share_a_call_so_that_little_is_padding(padded):
    packed = pack(make_examples(120, 3, 4, 118, 5, 119))

    calls = make_forward_calls(padded.model, packed)

    masks = [call.kwargs["attention_mask"] for call in calls]
    assert sum(int(mask.sum()) for mask in masks) == packed.token_ids_1T.shape[1]
    assert sum(mask.numel() for mask in masks) <= 1.25 * packed.token_ids_1T.shape[1] + 64
    assert {mask.shape for mask in masks} == {(3, 120), (3, 5)}


def test_the_token_ids_of_the_padding_change_nothing(padded):
    call = make_forward_calls(padded.model, pack(make_examples(5, 12)))[0]
    plain = compute_logits(padded.model, call)
    call.kwargs["input_ids"] = call.kwargs["input_ids"].masked_fill(call.kwargs["attention_mask"] == 0, 77)
    assert torch.equal(compute_logits(padded.model, call), plain)


@pytest.mark.parametrize(
    "method",
    [
        {"forget": {"kind": "rmu"}, "retain": {"kind": "rmu_retain"}},
        {"retain": {"kind": "kl"}, "lora": {"rank": 2}, "optimizer": {"kind": "sophia", "lr": 1e-4}},
    ],
    ids=["rmu", "kl_lora_sophia"],
)
def test_a_run_on_padded_batches_reports_that_and_exports_a_model(method, tmp_path):
    from soul_core.run import RunInputs, run

    spec = JobSpec.model_validate(
        {
            "training": {"steps": 2},
            "evaluation": {"max_new_tokens": 4, "bootstrap": 20, "num_answer_samples": 2},
            "attacks": [{"kind": "probing"}, {"kind": "quantize"}],
            **method,
        }
    )
    sets = {
        "forget": write_rows(tmp_path / "forget.jsonl", FORGET),
        "retain": write_rows(tmp_path / "retain.jsonl", RETAIN),
    }
    heard = Recorder()
    folder = save_tiny("GPT-Neo", tmp_path / "model")

    report = run(spec, RunInputs(model=str(folder), dataset_paths=sets, job_id="j"), tmp_path / "out", listener=heard)

    assert report.model.batches == "padded"
    assert any("padded" in event["message"] for event in heard.of("log"))
    assert all(attack.absent_reason is None for attack in report.attacks)
    assert load_model(Path(tmp_path / "out" / "checkpoint"), device="cpu").facts.batches == "padded"
