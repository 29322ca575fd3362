"""The base's numbers, kept once: equal to what the base says, for exactly what training uses."""

from pathlib import Path

import pytest
import torch

from soul_core.accumulation import MicroBatcher
from soul_core.data import encode_rows, pack
from soul_core.errors import BadSpec
from soul_core.listener import Quiet
from soul_core.models import Loaded, load_model
from soul_core.reference import ReferenceScores, take_reference
from soul_core.scoring import score
from tests.soul_core.tiny_model import COUNTRIES, rows_of
from tests.soul_core.tiny_models import CONFIGS, tiny_model, tiny_tokenizer


@pytest.fixture(params=["llama", "gemma2", "gpt2"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> Loaded:
    torch.set_num_threads(1)
    tiny_model(CONFIGS[request.param]).save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    return load_model(tmp_path / "m", device="cpu")


def test_the_kept_numbers_are_the_bases_own(loaded: Loaded, tmp_path: Path) -> None:
    examples = encode_rows(rows_of(list(COUNTRIES)[:6]), loaded.tokenizer, max_tokens=128)
    used = [1, 3, 4]
    wanted = {"sequence_logp": (examples, used), "logits": (examples, used)}

    taken = take_reference(loaded, wanted, batcher=MicroBatcher(60, Quiet()), listener=Quiet())
    taken.save(tmp_path / "state")
    kept = ReferenceScores.load(tmp_path / "state", loaded)

    assert kept is not None
    scores = score(loaded.model, pack([examples[index] for index in (4, 1)]))
    for reference in (taken, kept):
        logp_B = reference.of("sequence_logp", [4, 1]).sequence_logp_B
        logits_PV = reference.of("logits", [4, 1]).logits_PV
        assert logp_B is not None
        assert logits_PV is not None
        torch.testing.assert_close(logp_B, scores.sequence_logp_B.detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(logits_PV, scores.logits_PV.detach(), rtol=1e-3, atol=1e-4)
    assert set(taken.sequence_logp) == set(taken.hidden) == set(used), "only what training uses"


def test_the_reference_stays_when_the_model_moves(loaded: Loaded) -> None:
    examples = encode_rows(rows_of(list(COUNTRIES)[:2]), loaded.tokenizer, max_tokens=128)
    taken = take_reference(loaded, {"logits": (examples, [0, 1])}, batcher=MicroBatcher(999, Quiet()), listener=Quiet())
    before = taken.of("logits", [0]).logits_PV
    assert before is not None

    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(1.0)

    after = taken.of("logits", [0]).logits_PV
    assert after is not None
    torch.testing.assert_close(after, before)


def test_logits_made_in_an_unknown_way_are_refused_not_guessed(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = encode_rows(rows_of(list(COUNTRIES)[:2]), loaded.tokenizer, max_tokens=128)
    monkeypatch.setattr("soul_core.reference.score", lambda model, packed: _doubled(score(model, packed)))  # the fault

    with pytest.raises(BadSpec, match="use 'nll'"):
        take_reference(loaded, {"logits": (examples, [0])}, batcher=MicroBatcher(999, Quiet()), listener=Quiet())


def _doubled(scores):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(scores, logits_PV=scores.logits_PV * 2 + 5)
