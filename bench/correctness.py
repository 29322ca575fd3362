"""`python -m bench.correctness`: the engine against plain transformers, as in docs/reference/correctness.md.

Each tiny architecture is saved, loaded by `load_model` and scored in batches; plain transformers loads the same folder
with its own attention and scores each text alone, without padding, in float32. No number here is of a trained model.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from bench.chat_templates import TEMPLATES
from bench.tables import write_between
from bench.template_correctness import compare_template, make_templates_table
from bench.tiny_architectures import ARCHITECTURES, save_tiny
from bench.tiny_tokenizer import SPECIAL_TOKEN_IDS, VOCAB_SIZE
from soul_core.data.encoding import Example
from soul_core.data.packing import pack, pack_groups
from soul_core.models.capabilities import BatchLayout, get_capabilities
from soul_core.models.generation import generate
from soul_core.models.loading import load_model
from soul_core.models.scoring import score

#: Architectures that are compared with transformers' default attention, because its eager attention is wrong, and why.
NON_EAGER_REASONS = {
    "Falcon, ALiBi": "transformers 5.23's eager path adds the ALiBi bias twice (to the mask and to the scores); its "
    "default, SDPA, adds it once: compared with that"
}
#: Larger differences of gradients that pass, relative to the largest: rounding grows along a recurrence that multiplies
#: token after token.
GRADIENT_LIMITS = {"Mamba": 5e-5}
MAX_DIFFERENCE = 1e-5
EOS_TOKEN_ID = SPECIAL_TOKEN_IDS["eos_token_id"]
_NEW_TOKENS = 6

Groups = Sequence[Sequence[Example]]


@dataclass(frozen=True, slots=True)
class ArchitectureComparison:
    """One architecture against plain transformers. Differences are relative to the largest number compared."""

    name: str
    batches: BatchLayout
    uses_cache: bool  # whether it decodes with a cache
    logp: float  # of the log-probabilities of all answer tokens, in one batch
    batch_difference: float  # of the same, between a call for each text and the batch
    gradient: float  # of the mean negative log-likelihood, by every weight
    same_text: bool  # whether greedy continuations agree, of prompts of different lengths in one batch


def compare_architecture(name: str, folder: Path) -> ArchitectureComparison:
    """Save, load and compare one of `ARCHITECTURES`; `folder` is replaced."""
    save_tiny(name, folder)
    loaded = load_model(folder, device="cpu", dtype="float32", cache_dir=folder)
    plain = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=None if name in NON_EAGER_REASONS else "eager"
    ).eval()
    groups = _make_groups()
    examples = [example for group in groups for example in group]
    engine_P = score(loaded.model, pack_groups(groups)).logp_P
    plain_P = torch.cat([_score_plainly(plain, example) for example in examples])
    alone_P = torch.cat([score(loaded.model, pack([example])).logp_P for example in examples])
    capabilities = get_capabilities(loaded.model)
    prompts = [_cut_prompt(example) for example in examples]
    continuations = generate(
        loaded.model,
        prompts,
        end_ids=frozenset({EOS_TOKEN_ID}),
        max_new_tokens=_NEW_TOKENS,
        context_tokens=loaded.facts.context_tokens,
    )
    return ArchitectureComparison(
        name=name,
        batches=capabilities.batch_layout,
        uses_cache=capabilities.supports_cache,
        logp=_compute_difference(engine_P, plain_P),
        batch_difference=_compute_difference(alone_P, engine_P),
        gradient=_compute_gradient_difference(loaded.model, engine_P.mean(), plain, plain_P.mean()),
        same_text=continuations == [_generate_plainly(plain, prompt) for prompt in prompts],
    )


def passes(comparison: ArchitectureComparison, *, limit: float = MAX_DIFFERENCE) -> bool:
    """Return whether an architecture agrees with plain transformers."""
    gradient_limit = max(limit, GRADIENT_LIMITS.get(comparison.name, 0.0))
    return (
        max(comparison.logp, comparison.batch_difference) <= limit
        and comparison.gradient <= gradient_limit
        and comparison.same_text
    )


def make_architectures_table(comparisons: Sequence[ArchitectureComparison]) -> str:
    """Return the comparison as a Markdown table."""
    lines = [
        "| architecture | batches | decoding | log-probabilities | batch, alone | gradients | same greedy text |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in comparisons:
        mark = " (1)" if row.name in NON_EAGER_REASONS else ""
        lines.append(
            f"| {row.name}{mark} | {row.batches} | {'cache' if row.uses_cache else 'whole text'} | {row.logp:.0e} | "
            f"{row.batch_difference:.0e} | {row.gradient:.0e} | {'yes' if row.same_text else 'no'} |"
        )
    names = {row.name for row in comparisons}
    notes = [f"(1) {reason}." for name, reason in NON_EAGER_REASONS.items() if name in names]
    return "\n".join([*lines, "", *notes])


def _make_groups() -> Groups:
    """Return texts of 2 to 40 tokens, and three answers of different lengths to one prompt."""
    generator = torch.Generator().manual_seed(1)

    def draw_tokens(num_tokens: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCAB_SIZE, (num_tokens,), generator=generator).tolist())

    texts = [[Example(draw_tokens(length), 1, row)] for row, length in enumerate((9, 2, 40, 15), start=1)]
    prompt = draw_tokens(6)
    return [*texts, [Example(prompt + draw_tokens(length), 6, 5) for length in (3, 20, 5)]]


def _score_plainly(model: Any, example: Example) -> torch.Tensor:
    """Return the log-probabilities of an example's answer, by transformers alone, without a batch."""
    logits_TV: torch.Tensor = model(input_ids=torch.tensor([example.token_ids]), use_cache=False).logits[0]
    labels = torch.tensor(example.token_ids[example.num_prompt_tokens :])
    logp_PV = logits_TV[example.num_prompt_tokens - 1 : -1].log_softmax(-1)
    return logp_PV.gather(1, labels[:, None])[:, 0]


def _compute_gradient_difference(engine: Any, engine_loss: torch.Tensor, plain: Any, plain_loss: torch.Tensor) -> float:
    names = sorted(name for name, _ in plain.named_parameters())
    gradients = []
    for model, loss in ((engine, engine_loss), (plain, plain_loss)):
        parameters = [model.get_parameter(name) for name in names]
        by_parameter = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        gradients.append(torch.cat([gradient.flatten() for gradient in by_parameter]))
    return _compute_difference(*gradients)


def _cut_prompt(example: Example) -> list[int]:
    """Return a prompt to continue: the example without its last tokens."""
    return list(example.token_ids[: max(example.num_prompt_tokens, len(example.token_ids) - 3)])


@torch.no_grad()
def _generate_plainly(model: Any, prompt: list[int]) -> list[int]:
    """Return the greedy continuation of a prompt, by transformers alone, without a batch and without a cache."""
    ids = list(prompt)
    for _ in range(_NEW_TOKENS):
        token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token == EOS_TOKEN_ID:
            break
        ids.append(token)
    return ids[len(prompt) :]


def _compute_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest expected value."""
    actual, expected = actual.detach(), expected.detach()
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; return 1 if any difference exceeds the limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.correctness", description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures to compare (default: all)")
    parser.add_argument(
        "--limit", type=float, default=MAX_DIFFERENCE, help="largest difference that passes (default: 1e-5)"
    )
    parser.add_argument("--write", type=Path, help="a page whose tables are replaced: docs/reference/correctness.md")
    args = parser.parse_args(arguments)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        comparisons = [compare_architecture(name, Path(folder) / "model") for name in args.names or ARCHITECTURES]
        templates = [] if args.names else [compare_template(name, Path(folder) / name) for name in TEMPLATES]
    tables = {"architectures": make_architectures_table(comparisons)}
    if templates:
        tables["templates"] = make_templates_table(templates)
    if args.write:
        for name, table in tables.items():
            write_between(args.write, name, table)
    print("\n\n".join(tables.values()))
    templates_agree = all(row.same_tokens and row.same_prompt and row.logp <= args.limit for row in templates)
    return int(not (templates_agree and all(passes(row, limit=args.limit) for row in comparisons)))


if __name__ == "__main__":
    sys.exit(main())
