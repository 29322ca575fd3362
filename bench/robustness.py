"""Compares what makes forgetting last: a model that knows invented people is trained by each recipe until the forget
rows' probability is a small part of the target's, then relearned, rounded to 4 bits and fine-tuned on other text, as is
the model retrained without those rows. `python -m bench.robustness` resumes. SmolLM2-135M takes two cores an hour;
`--quick` a small Llama that is trained from scratch, a few minutes.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.pretrained_data import Row, make_tasks, read_general_texts
from bench.pretrained_model import build_target, choose_fast_dtype, write_rows
from bench.row_scores import compute_mean, encode_content, score_rows
from bench.steps import StepResult, Steps, compute_path_digest
from bench.tables import describe_run, format_table, write_between
from bench.tofu_model import WORK_FOLDER, Size, finetune, make_untrained_model
from bench.tofu_report import DOCS_FOLDER
from soul_core.attacks.context import AttackContext
from soul_core.attacks.finetuning import finetune_model
from soul_core.attacks.quantize import list_weight_matrices, round_in_place
from soul_core.attacks.relearn import split_forget_rows
from soul_core.attacks.snapshot import preserve_model_state
from soul_core.data.encoding import Example
from soul_core.evaluation.row_selection import EvaluationSet
from soul_core.events import SilentListener
from soul_core.formatting import format_number
from soul_core.metrics.aggregate import Resampling, compute_ratio_interval, summarize
from soul_core.models.loading import LoadedModel, load_model
from soul_core.outputs.layout import CHECKPOINT
from soul_core.spec import JobSpec
from soul_core.spec.attacks import Downstream, Quantize, Relearn
from soul_core.training.trainer import train

TASK = "people"
RECIPE: dict[str, Any] = {
    "forget": {"kind": "ce_u"},
    "retain": {"kind": "nll", "weight": 5.0},
    "training": {"steps": 100, "forget_batch": 6, "retain_batch": 6, "micro_batch_tokens": 4096},
}
_SMALL = Size(vocabulary=1024, hidden=128, intermediate=512, layers=4, rounds=(40,), lr=3e-3)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sharpness 0.1": {"sharpness": {"rho": 0.1}},
    "latent": {"latent": {}},
    "latent 0.1 prompt": {"latent": {"radius": 0.1, "positions": "prompt"}},
    "paraphrases": {"data": {"paraphrases": 2}},
    "latent, paraphrases": {"latent": {}, "data": {"paraphrases": 2}},
    "latent, sharpness 0.1": {"latent": {}, "sharpness": {"rho": 0.1}},
}
ATTACKS = ("relearn", "quantize_4bit", "downstream")
_NUM_GENERAL, _NUM_DOWNSTREAM = 12, 24
_MAX_TOKENS = 2048
_RESAMPLING = Resampling(num_resamples=1000, confidence=0.95, seed=0)
_HEAD = ("model", "seed", "steps", "forget p", "relearned", "4 bits", "fine-tuned", "kept, unseen", "general", "CPU s")


@dataclass(frozen=True)
class Setting:
    """A target, the model retrained without the forget rows, and the rates that suit their size."""

    name: str
    target: Path
    retrained: Path
    optimizer: dict[str, Any]
    attack_lr: float
    dtype: str
    forgotten: float
    """A recipe is trained until the forget rows have this fraction of the target's probability."""


@dataclass(frozen=True)
class Data:
    """The rows of the task, encoded: forget, retain, unseen, general (measured) and other (fine-tuned on)."""

    forget: EvaluationSet
    sets: Mapping[str, Sequence[Example]]


def main(arguments: list[str] | None = None) -> None:
    """Run each recipe with each seed, write the table, and print the numbers as JSON in the last line."""
    parser = argparse.ArgumentParser(prog="python -m bench.robustness", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK_FOLDER, help=f"work folder (default: ./{WORK_FOLDER})")
    parser.add_argument("--target", type=Path, help="a finished target instead of the built one")
    parser.add_argument("--retrained", type=Path, help="a finished retrained model instead of the built one")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--quick", action="store_true", help="a small model that is trained from scratch")
    parser.add_argument("--results", type=Path, default=DOCS_FOLDER / "reference" / "results.md")
    parser.add_argument("--json", action="store_true", help="print the table's numbers as JSON in the last line")
    args = parser.parse_args(arguments)
    steps = Steps(args.work.resolve(), use_subprocess=not args.quick)
    setting = make_small_setting(steps) if args.quick else make_pretrained_setting(steps, args.target, args.retrained)
    results = {("retrained", 0): measure_once(steps, setting, "retrained", None, seed=0)}
    results["target", 0] = measure_once(steps, setting, "target", None, seed=0)
    for name in args.variants:
        for seed in args.seeds:
            results[name, seed] = measure_once(steps, setting, name, VARIANTS[name], seed=seed)
    rows = list(make_rows(results))
    command = f"python -m bench.robustness{' --quick' if args.quick else ''} --seeds {' '.join(map(str, args.seeds))}"
    mark = f"robustness_{setting.name}"
    write_between(args.results, mark, f"{describe_run(command)}\n\n{format_table(_HEAD, rows)}")
    if args.json:
        print(json.dumps([dict(zip(_HEAD, row, strict=True)) for row in rows]))


def make_pretrained_setting(steps: Steps, target: Path | None, retrained: Path | None) -> Setting:
    """Return SmolLM2-135M fine-tuned on every task of `pretrained_data`, built unless it is given."""
    tasks = make_tasks()
    return Setting(
        name="pretrained",
        target=target or build_target(steps, tasks),
        retrained=retrained or build_target(steps, tasks, without=TASK),
        optimizer={"kind": "sophia", "lr": 4e-5, "gamma": 30.0},
        attack_lr=Relearn().lr,
        dtype=choose_fast_dtype(steps),
        forgotten=0.25,
    )


def make_small_setting(steps: Steps) -> Setting:
    """Return a small Llama trained from scratch on the people alone; its rates are a hundred times as large."""
    task = make_tasks()[TASK]
    paths = {
        "target": write_rows(steps.work / "data" / "small-target.jsonl", task.all_rows),
        "retrained": write_rows(steps.work / "data" / "small-retrained.jsonl", task.all_rows[len(task.forget) :]),
    }
    initial = make_untrained_model(steps, "small-initial", _SMALL, paths["retrained"], seed=0)
    models = {
        name: finetune(steps, f"small-{name}", _SMALL, _SMALL.rounds[0], initial, path, seed=0) / CHECKPOINT
        for name, path in paths.items()
    }
    return Setting(
        name="small",
        target=models["target"],
        retrained=models["retrained"],
        optimizer={"kind": "sophia", "lr": 3e-4},
        attack_lr=1e-3,
        dtype="float32",
        forgotten=0.1,
    )


def measure_once(steps: Steps, setting: Setting, name: str, variant: dict[str, Any] | None, *, seed: int) -> StepResult:
    """Return the probabilities of all rows, without and under each attack, after the recipe if there is one."""
    content = {**RECIPE, "optimizer": setting.optimizer, "dtype": setting.dtype, "seed": seed, **(variant or {})}
    spec, model = JobSpec.model_validate(content), setting.retrained if name == "retrained" else setting.target

    def run(folder: Path) -> StepResult:
        loaded = load_model(model, device="cpu", dtype=spec.dtype)
        data = _load_data(loaded, folder)
        trained: StepResult = {"steps": 0, "cpu_seconds": 0.0}
        if variant is not None:
            trained = _train_until_forgotten(loaded, data, spec, folder, fraction=setting.forgotten)
        measured = {
            name: score_rows(loaded, data.sets[name], max_tokens=_MAX_TOKENS)
            for name in ("forget", "unseen", "general")
        }
        return {**trained, **measured, **_attack(loaded, data, spec, folder, lr=setting.attack_lr)}

    key = {"spec": spec.model_dump(mode="json"), "model": compute_path_digest(model), "trained": variant is not None}
    key |= {"attack_lr": setting.attack_lr, "forgotten": setting.forgotten}
    step = f"robustness-{setting.name}/{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    return steps.run_once(step, key, run)


def _load_data(loaded: LoadedModel, folder: Path) -> Data:
    task = make_tasks()[TASK]
    texts = read_general_texts(_NUM_GENERAL + _NUM_DOWNSTREAM)
    contents: dict[str, list[Row]] = {
        "forget": task.forget,
        "retain": task.retain,
        "unseen": task.unseen,
        "general": texts[:_NUM_GENERAL],
        "other": texts[_NUM_GENERAL:],
    }
    sets = {}
    for name, content in contents.items():
        rows, examples = encode_content(loaded, folder / f"{name}.jsonl", content)
        sets[name] = EvaluationSet(name, rows, tuple(examples))
    return Data(sets["forget"], {name: rows.examples for name, rows in sets.items()})


def _train_until_forgotten(
    loaded: LoadedModel, data: Data, spec: JobSpec, folder: Path, *, fraction: float
) -> StepResult:
    before = compute_mean(score_rows(loaded, data.sets["forget"], max_tokens=_MAX_TOKENS))
    course: list[tuple[int, float]] = []

    def has_forgotten(step: int, *_: object) -> bool:
        course.append((step, compute_mean(score_rows(loaded, data.sets["forget"], max_tokens=_MAX_TOKENS)) / before))
        return course[-1][1] <= fraction

    started = time.process_time()
    result = train(
        loaded,
        spec,
        forget=data.sets["forget"],
        retain=data.sets["retain"],
        state_dir=folder,
        listener=SilentListener(),
        should_stop=has_forgotten,
    )
    return {"steps": result.steps, "cpu_seconds": time.process_time() - started, "course": course}


def _attack(loaded: LoadedModel, data: Data, spec: JobSpec, folder: Path, *, lr: float) -> StepResult:
    """Return the forget rows' probabilities under each attack, and which rows relearning does not show.

    The attacks have one seed whatever the recipe's is: they show every model the same rows.
    """
    of_attacks, listener = spec.model_copy(update={"seed": 0}), SilentListener()
    context = AttackContext(
        loaded, "model", {"forget": data.forget}, data.forget, {}, of_attacks, listener, folder / "attack"
    )
    relearn, downstream, quantize = Relearn(lr=lr), Downstream(lr=lr), Quantize()
    _, held_out, shown = split_forget_rows(context, relearn)

    def train_on(examples: Sequence[Example], attack: Relearn | Downstream) -> None:
        finetune_model(context, examples, num_steps=attack.steps, batch_size=attack.batch, lr=attack.lr)

    def round_weights() -> None:
        for weights_RC, _ in list_weight_matrices(loaded.model):
            if weights_RC is not None:
                round_in_place(weights_RC, bits=quantize.bits, group_size=quantize.group)

    changes: dict[str, Callable[[], None]] = {
        "relearn": lambda: train_on(shown, relearn),
        "quantize_4bit": round_weights,
        "downstream": lambda: train_on(data.sets["other"], downstream),
    }
    results: StepResult = {"held_out": held_out}
    for name, change in changes.items():
        with preserve_model_state(loaded.model):
            change()
            results[name] = score_rows(loaded, data.sets["forget"], max_tokens=_MAX_TOKENS)
    return results


def make_rows(results: Mapping[tuple[str, int], StepResult]) -> Iterator[list[str | float | None]]:
    """Yield the rows of the table. Under an attack: probability, and its ratio to the retrained model's there."""
    retrained, target = results["retrained", 0], results["target", 0]
    for (name, seed), result in results.items():
        is_trained = name not in {"retrained", "target"}
        yield [
            name,
            str(seed) if is_trained else None,
            str(result["steps"]) if is_trained else None,
            compute_mean(result["forget"]),
            *(_format_attack(result, retrained, attack) for attack in ATTACKS),
            *(compute_mean(result[set_name]) / compute_mean(target[set_name]) for set_name in ("unseen", "general")),
            f"{result['cpu_seconds']:.0f}" if is_trained else None,
        ]


def _format_attack(result: StepResult, retrained: StepResult, attack: str) -> str:
    before, after, of_retrained = (
        [values[i] for i in result["held_out"]] if attack == "relearn" else values
        for values in (result["forget"], result[attack], retrained[attack])
    )
    text = f"{format_number(compute_mean(before))} → {format_number(compute_mean(after))}"
    if result is retrained:
        return text
    judged, factor = (summarize(values, _RESAMPLING) for values in (after, of_retrained))
    interval = compute_ratio_interval(judged, factor, _RESAMPLING, aggregate="mean")
    ratio = compute_mean(after) / compute_mean(of_retrained)
    low, high = interval or (ratio, ratio)
    return f"{text} ({ratio:.2f} [{low:.2f}, {high:.2f}])"


if __name__ == "__main__":
    main()
