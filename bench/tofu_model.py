"""Trains a small Llama with its own tokenizer from scratch on TOFU: the target model, and one retrained without the
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
#: Its forget set contains those of the other splits.
_LARGEST: Split = "forget10"
_USER, _ASSISTANT, _END = "<|user|>", "<|assistant|>", "<|end|>"
#: One token before a question, one before an answer, one after it.
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
    """Epochs of each round; the learning rate restarts in each (cosine with warm restarts, arXiv:1608.03983)."""
    batch: int = 8
    lr: float = 2e-3
    warmup_steps: int = 50
    num_retain_rows: int | None = 1200
    """Number of TOFU's 3600 rows that no split forgets; None: all."""
    max_rows: int | None = None
    """Maximum length of the other sets; None: as in TOFU."""


SIZES = {
    "short": Size(),
    "whole": Size(num_retain_rows=None),
    "tiny": Size(vocabulary=400, hidden=32, intermediate=64, rounds=(50,), lr=1e-2, num_retain_rows=16, max_rows=8),
}


@dataclass(frozen=True)
class TofuModels:
    """The models of one split and their data."""

    tofu: TofuData
    target: Path
    retrained: Path
    seconds: dict[str, dict[str, float]]  # model -> wall and CPU seconds of its training


def build_models(steps: Steps, size: Size, split: Split = "forget10", *, seed: int = 0) -> TofuModels:
    """Return the target and the retrained model of a split; the engine trains them (kind finetune) if necessary."""
    tofu = write_tofu(steps.work / f"data-{split}", split, num_retain_rows=size.num_retain_rows, max_rows=size.max_rows)
    largest = write_tofu(
        steps.work / f"data-{_LARGEST}", _LARGEST, num_retain_rows=size.num_retain_rows, max_rows=size.max_rows
    )
    initial = make_untrained_model(steps, f"initial-{_LARGEST}-{seed}", size, largest.train_retrained, seed=seed)
    with make_executor(steps) as pool:
        futures = {
            "target": pool.submit(_train_rounds, steps, f"target-{seed}", size, initial, tofu.train_target, seed),
            "retrained": pool.submit(
                _train_rounds, steps, f"retrained-{split}-{seed}", size, initial, tofu.train_retrained, seed
            ),
        }
        outs_by_model = {name: future.result() for name, future in futures.items()}
    return TofuModels(
        tofu,
        outs_by_model["target"][-1] / CHECKPOINT,
        outs_by_model["retrained"][-1] / CHECKPOINT,
        {name: _sum_seconds(outs) for name, outs in outs_by_model.items()},
    )


def _sum_seconds(outs: list[Path]) -> dict[str, float]:
    rounds = [load_run_seconds(out) for out in outs]
    return {clock: sum(seconds[clock] for seconds in rounds) for clock in rounds[0]}


def make_untrained_model(steps: Steps, name: str, size: Size, text: Path, *, seed: int) -> Path:
    """Save an untrained model whose tokenizer is trained on `text`, JSON lines of `question` and `answer`.

    For TOFU these are the retain rows of the largest split: no row that any split forgets, so that all splits share the
    model.
    """
    shape = {name: getattr(size, name) for name in _SHAPE} | {"seed": seed}

    def make(folder: Path) -> StepResult:
        tokenizer = _train_tokenizer([json.loads(line) for line in text.read_text().splitlines()], size.vocabulary)
        tokenizer.save_pretrained(folder / "model")
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_make_config(size, tokenizer))
        model.save_pretrained(folder / "model")
        return {"parameters": sum(parameter.numel() for parameter in model.parameters())}

    steps.run_once(name, {"shape": shape, "text": compute_path_digest(text)}, make)
    return steps.work / name / "model"


def _train_tokenizer(rows: list[dict[str, Any]], vocabulary: int) -> PreTrainedTokenizerFast:
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


def _make_config(size: Size, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
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


def _train_rounds(steps: Steps, name: str, size: Size, initial: Path, train: Path, seed: int) -> list[Path]:
    """Train all rounds, one after the other; return the output folder of each."""
    outs: list[Path] = []
    for number, epochs in enumerate(size.rounds):
        model = outs[-1] / CHECKPOINT if outs else initial
        step = f"{name}-round{number + 1}" if outs else name
        outs.append(finetune(steps, step, size, epochs, model, train, seed + number))
    return outs


def finetune(steps: Steps, name: str, size: Size, epochs: float, initial: Path, train: Path, seed: int) -> Path:
    """Train one round by the engine (kind finetune), as step `name`; return its output folder."""
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
    """Build both models; print their folders, training times, and the probability of their training rows."""
    parser = argparse.ArgumentParser(prog="python -m bench.tofu_model", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK_FOLDER, help=f"work folder (default: ./{WORK_FOLDER})")
    parser.add_argument("--size", choices=SIZES, default="short")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    steps = Steps(args.work.resolve())
    built = build_models(steps, SIZES[args.size], seed=args.seed)
    for name, checkpoint in (("target", built.target), ("retrained", built.retrained)):
        report = load_report(checkpoint.parent)
        probability = report["models"]["finetuned"]["sets"]["train"]["probability"]["value"]
        seconds = built.seconds[name]
        print(f"{name}: {checkpoint}")
        print(f"  probability of its training rows {probability:.3f}; {seconds['wall']} s, CPU {seconds['cpu']} s")


if __name__ == "__main__":
    main()
