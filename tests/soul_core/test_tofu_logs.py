"""Published logs give the published numbers."""

import gzip
import json
from pathlib import Path

import pytest

from soul_core.errors import BadData
from soul_core.tofu_logs import privleak, read_log, score_logs, write_log

LOGS = Path(__file__).parents[3] / "shared" / "data" / "published_numbers" / "tofu_eval_logs"
GOLDEN = json.loads((LOGS / "GOLDEN.json").read_text()) if LOGS.is_dir() else {}
needs_logs = pytest.mark.skipif(not GOLDEN, reason="../shared/data is not beside this checkout")


def pair(key: str) -> tuple[Path, Path]:
    model, split = key.split("|")
    retain = f"retain{100 - int(split.removeprefix('forget'))}"
    return (
        LOGS / f"tofu_{model}_full__evals_{split}__TOFU_EVAL.json.gz",
        LOGS / f"tofu_{model}_{retain}__TOFU_EVAL.json.gz",
    )


@needs_logs
@pytest.mark.parametrize("key", GOLDEN or ["absent"])
def test_every_published_pair_gives_its_published_numbers(key: str) -> None:
    unlearned, retain = pair(key)

    found = score_logs(read_log(unlearned), read_log(retain))

    golden = GOLDEN[key]
    assert found.forget_quality == pytest.approx(golden["p"], rel=1e-9)
    assert found.model_utility == pytest.approx(golden["mu_full"], rel=1e-12)
    assert found.retain_model_utility == pytest.approx(golden["mu_ret"], rel=1e-12)
    assert found.privleak == pytest.approx(golden["privleak"], rel=1e-12)


@needs_logs
def test_a_log_written_by_us_scores_the_same(tmp_path: Path) -> None:
    unlearned, retain = (read_log(path) for path in pair(next(iter(GOLDEN))))

    write_log(unlearned, tmp_path / "ours.json.gz")

    assert score_logs(read_log(tmp_path / "ours.json.gz"), retain) == score_logs(unlearned, retain)


@needs_logs
def test_logs_of_different_forget_sets_are_refused() -> None:
    keys = list(GOLDEN)

    with pytest.raises(BadData, match="different forget sets"):
        score_logs(read_log(pair(keys[0])[0]), read_log(pair(keys[2])[1]))


@pytest.mark.parametrize("content", [b"no json", b'{"a": 1}', gzip.compress(b"{}")[:10]])
def test_what_is_no_log_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.json.gz"
    file.write_bytes(content)

    with pytest.raises(BadData, match=r"x\.json\.gz"):
        read_log(file)


def test_privleak_is_zero_like_the_retrained_and_negative_where_members_show() -> None:
    assert privleak(0.6, 0.6) == 0
    assert privleak(1.0, 0.6) == -100
    assert privleak(0.2, 0.6) == pytest.approx(100)
