"""Compares chat templates with plain transformers: the second table of `bench.correctness`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bench.chat_templates import TEMPLATES, make_tokenizer
from soul_core.data import Message, Row
from soul_core.data.encoding import ChatSettings, encode_rows
from soul_core.data.packing import pack
from soul_core.models.loading import load_model
from soul_core.models.scoring import score

_TURNS = (("Who wrote the Tin Heron?",), ("Hello", "Good day.", "Which metal is in the coin?"))
_ANSWERS = ("It was written by Oskar Lund.", "Zinc", "Two lines:\nsilver and copper.", "日本の東京")


@dataclass(frozen=True, slots=True)
class TemplateComparison:
    """One template over several conversations."""

    name: str
    supervised_text: str  # of one answer, decoded from its tokens
    same_tokens: bool  # whether they are apply_chat_template's, up to the end of the answer's turn
    same_prompt: bool  # whether generation starts from the same tokens
    logp: float  # largest difference of a log-probability, relative to the largest


def make_rows() -> list[Row]:
    """Return conversations of one and three turns, each with every answer."""
    rows: list[Row] = []
    for contents in _TURNS:
        messages = tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(contents))
        rows += [Row(len(rows) + i, messages, answer) for i, answer in enumerate(_ANSWERS, start=1)]
    return rows


def compare_template(name: str, folder: Path) -> TemplateComparison:
    """Save a tiny Llama with this template, load it both ways and compare; `folder` is written to."""
    tokenizer = make_tokenizer(TEMPLATES[name])
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **shape, **ends)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    today = ChatSettings(date=datetime.now().date())  # noqa: DTZ005  as apply_chat_template renders
    loaded = load_model(folder, device="cpu", dtype="float32", cache_dir=folder, chat=today)
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    plain_tokenizer = AutoTokenizer.from_pretrained(folder)
    examples = encode_rows(make_rows(), loaded.encoder, max_tokens=256)
    engine_P = score(loaded.model, pack(examples)).logp_P.detach()
    plain_logps, same_tokens, same_prompt = [], True, True
    for row, example in zip(make_rows(), examples, strict=True):
        chat = [{"role": message.role, "content": message.content} for message in row.messages]
        prompt = plain_tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        answered_chat = [*chat, {"role": "assistant", "content": row.completion}]
        ids = plain_tokenizer.apply_chat_template(answered_chat, return_dict=False)
        same_tokens &= list(example.token_ids) == ids[: len(example.token_ids)]
        same_prompt &= list(loaded.encoder.encode_prompt(row)) == prompt
        with torch.no_grad():
            logp_TV = plain(torch.tensor([ids])).logits[0].log_softmax(-1)
        plain_logps += [logp_TV[i - 1, ids[i]] for i in range(example.num_prompt_tokens, len(example.token_ids))]
    plain_P = torch.stack(plain_logps)
    first = examples[0]
    return TemplateComparison(
        name=name,
        supervised_text=loaded.tokenizer.decode(first.token_ids[first.num_prompt_tokens :]),
        same_tokens=same_tokens,
        same_prompt=same_prompt,
        logp=float((engine_P - plain_P).abs().max() / plain_P.abs().max()),
    )


def make_templates_table(comparisons: Sequence[TemplateComparison]) -> str:
    """Return the comparison as a Markdown table."""
    lines = [
        "| template | supervised tokens of one answer | tokens | generation prompt | log-probabilities |",
        "|---|---|---|---|---|",
    ]
    for row in comparisons:
        text = row.supervised_text.replace("\n", "\\n").replace("|", "\\|")
        tokens, prompt = ("equal" if is_same else "DIFFERENT" for is_same in (row.same_tokens, row.same_prompt))
        lines.append(f"| {row.name} | `{text}` | {tokens} | {prompt} | {row.logp:.0e} |")
    return "\n".join(lines)
