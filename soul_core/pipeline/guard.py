"""The guard rows of a run: its curvature and its learning rate depend on them, no step trains on them."""

from collections.abc import Sequence
from itertools import zip_longest

from soul_core.data.datasets import EncodedDataset
from soul_core.data.encoding import Example, encode_rows
from soul_core.data.general_text import split_sample
from soul_core.data.held_out import MIN_SPLIT_ROWS, count_held_out
from soul_core.pipeline.model_under_test import ModelUnderTest, cut_texts
from soul_core.spec import JobKind, JobSpec
from soul_core.spec.optimizers import Kfac, Sophia

#: Part of the retain rows, at most MAX_RETAIN_ROWS, of a set of at least twice MIN_SPLIT_ROWS. Ours.
RETAIN_FRACTION, MAX_RETAIN_ROWS = 0.1, 16


def uses_guard(spec: JobSpec) -> bool:
    """Return whether a run of this spec reads guard rows."""
    if spec.kind != JobKind.UNLEARN or spec.strategy.kind == "influence":
        return False
    if not isinstance(spec.optimizer, Sophia):
        return isinstance(spec.optimizer, Kfac)
    return spec.optimizer.lr == "auto" or spec.optimizer.curvature.data == "guard"


def split_off_guard(
    model_under_test: ModelUnderTest, retain: EncodedDataset | None, spec: JobSpec
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return the retain examples to train on, and the guard examples: retain rows and general passages by turns.

    The passages are those of the shipped sample that the run does not measure.
    """
    examples: Sequence[Example] = retain.examples if retain else ()
    if not uses_guard(spec):
        return examples, ()
    rows: Sequence[Example] = ()
    if retain and len(examples) >= 2 * MIN_SPLIT_ROWS:
        num_rows = min(MAX_RETAIN_ROWS, count_held_out(len(examples), RETAIN_FRACTION))
        examples, rows = retain.split_off_examples(num_rows, seed=spec.seed, purpose="guard")
    loaded, max_tokens = model_under_test.loaded, model_under_test.max_tokens
    passages = cut_texts(split_sample(spec.seed)[0], loaded, max_tokens)
    texts = encode_rows(passages, loaded.encoder, max_tokens=max_tokens)
    pairs = zip_longest(rows, texts)
    return examples, tuple(example for pair in pairs for example in pair if example is not None)
