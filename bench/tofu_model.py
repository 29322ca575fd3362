"""A small Llama with a tokenizer of its own, trained from scratch on TOFU: the target, and one retrained without the
forget set. `python -m bench.tofu_model` builds both once, in the work folder.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.engine import EngineRun, load_report, load_run_seconds, make_executor, run_engine_once
from bench.steps import StepResult, Steps, compute_path_digest
from bench.tofu_data import Split, TofuData, write_tofu
from soul_core.outputs.layout import CHECKPOINT

WORK_FOLDER = Path("bench-out")
_SHAPE = ("vocabulary", "hidden", "intermediate", "layers", "heads", "context")
#: Its forget set holds those of the other splits.
_LARGEST: Split = "forget10"
_USER, _ASSISTANT, _END = "<|user|>", "<|assistant|>", "<|end|>"
#: One token before a question, one before an answer, one behind it.
_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|assistant|>' + m['content'] + '<|end|>' }}"
    "{% else %}{{ '<|user|>' + m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """How large the model is, how long it learns, and on how many rows. Chosen by trials: docs/reference/results.md."""

    vocabulary: int = 4096
    hidden: int = 256
    intermediate: int = 1024
    layers: int = 2
    heads: int = 4
    context: int = 512
    rounds: tuple[float, ...] = (16, 9)
    """Epochs of each round; the learning rate starts anew in each (cosine with warm restarts, arXiv:1608.03983)."""
    batch: int = 8
    lr: float = 2e-3
    warmup_steps: int = 50
    num_retain_rows: int | None = 1200
    """Of TOFU's 3600 rows that no split forgets; none: all."""
    max_rows: int | None = None
    """Longest of the other sets; none: as TOFU has them."""


SIZES = {
    "short": Size(),
    "whole": Size(num_retain_rows=None),
    "tiny": Size(vocabulary=400, hidden=32, intermediate=64, rounds=(50,), lr=1e-2, num_retain_rows=16, max_rows=8),
}


@dataclass(frozen=True)
class TofuModels:
    """The models of one split and the data they learned."""

    tofu: TofuData
    target: Path
    retrained: Path
    seconds: dict[str, dict[str, float]]  # model -> wall and CPU seconds of its training


def build_models(steps: Steps, size: Size, split: Split = "forget10", *, seed: int = 0) -> TofuModels:
    """Return target and retrained model of a split, trained by the engine (kind finetune) unless they are there."""
    tofu = write_tofu(steps.work / f"data-{split}", split, num_retain_rows=size.num_retain_rows, max_rows=size.max_rows)
    largest = write_tofu(
        steps.work / f"data-{_LARGEST}", _LARGEST, num_retain_rows=size.num_retain_rows, max_rows=size.max_rows
    )
    initial = make_untrained_model(steps, f"initial-{_LARGEST}-{seed}", size, largest.train_retrained, seed=seed)
    with make_executor(steps) as pool:
        wanted = {
            "target": pool.submit(_trained, steps, f"target-{seed}", size, initial, tofu.train_target, seed),
            "retrained": pool.submit(
                _trained, steps, f"retrained-{split}-{seed}", size, initial, tofu.train_retrained, seed
            ),
        }
        trained = {name: future.result() for name, future in wanted.items()}
    return TofuModels(
        tofu,
        trained["target"][-1] / CHECKPOINT,
        trained["retrained"][-1] / CHECKPOINT,
        {name: _total([load_run_seconds(out) for out in outs]) for name, outs in trained.items()},
    )


def _total(parts: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def make_untrained_model(steps: Steps, name: str, size: Size, text: Path, *, seed: int) -> Path:
    """Save an untrained model whose tokenizer is made from `text`, JSON lines of `question` and `answer`.

    For TOFU these are the rows that the largest split keeps: it has seen nothing of what any split forgets, and all
    splits share it.
    """
    shape = {name: getattr(size, name) for name in _SHAPE} | {"seed": seed}

    def do(folder: Path) -> StepResult:
        tokenizer = _tokenizer([json.loads(line) for line in text.read_text().splitlines()], size.vocabulary)
        tokenizer.save_pretrained(folder / "model")
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_config(size, tokenizer))
        model.save_pretrained(folder / "model")
        return {"parameters": sum(parameter.numel() for parameter in model.parameters())}

    steps.run_once(name, {"shape": shape, "text": compute_path_digest(text)}, do)
    return steps.work / name / "model"


def _tokenizer(rows: list[dict[str, Any]], vocabulary: int) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_USER, _ASSISTANT, _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([text for row in rows for text in (row["question"], row["answer"])], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=_END, pad_token=_END, additional_special_tokens=[_USER, _ASSISTANT]
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def _config(size: Size, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _trained(steps: Steps, name: str, size: Size, initial: Path, train: Path, seed: int) -> list[Path]:
    """Train round after round; return the output folder of each."""
    outs: list[Path] = []
    for number, epochs in enumerate(size.rounds):
        before = outs[-1] / CHECKPOINT if outs else initial
        outs.append(
            finetune(steps, f"{name}-round{number + 1}" if outs else name, size, epochs, before, train, seed + number)
        )
    return outs


def finetune(steps: Steps, name: str, size: Size, epochs: float, initial: Path, train: Path, seed: int) -> Path:
    """Train one round by the engine (kind finetune), from step `name`; return its output folder."""
    num_rows = len(train.read_text().splitlines())
    num_steps = round(epochs * num_rows / size.batch)
    spec = {
        "kind": "finetune",
        "seed": seed,
        "optimizer": {"kind": "adamw", "lr": size.lr, "beta2": 0.99},
        "training": {
            "steps": num_steps,
            "retain_batch": size.batch,
            "schedule": "cosine",
            "warmup_steps": min(size.warmup_steps, num_steps // 10),
            "checkpoint_every": max(1, num_steps // 10),
        },
        "evaluation": {"metrics": ["probability", "exact_memorization"], "max_examples": 200, "num_answer_samples": 0},
    }
    return run_engine_once(steps, name, EngineRun(spec, initial, {"train": train}, model_name=name))


def main() -> None:
    """Build both models and say where they lie and what they know of what they were taught."""
    parser = argparse.ArgumentParser(prog="python -m bench.tofu_model", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK_FOLDER, help=f"work folder (default: ./{WORK_FOLDER})")
    parser.add_argument("--size", choices=SIZES, default="short")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    steps = Steps(args.work.resolve())
    built = build_models(steps, SIZES[args.size], seed=args.seed)
    for name, checkpoint in (("target", built.target), ("retrained", built.retrained)):
        known = load_report(checkpoint.parent)["models"]["finetuned"]["sets"]["train"]["probability"]["value"]
        took = built.seconds[name]
        print(
            f"{name}: {checkpoint}\n  probability of what it learned {known:.3f}; {took['wall']} s, CPU {took['cpu']} s"
        )


if __name__ == "__main__":
    main()
