"""Conversations in OpenAI's form (role, content) or ShareGPT's (from, value) to messages. Torch-free."""

import json
import re
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
} | {role: role for role in ROLES}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a prompt."""

    role: str
    content: str


def read_messages(value: Any, *, canonical: bool) -> tuple[tuple[Message, ...], list[str]]:
    """Return the messages and their faults. A canonical prompt may be empty and ends before the answer."""
    if isinstance(value, str):  # from a CSV file
        try:
            value = json.loads(value)
        except ValueError:
            return (), ["not a JSON list of messages"]
    if not isinstance(value, list):
        return (), [f"must be a list of messages, is {describe_type(value)}"]
    faults, messages = [], []
    for index, turn in enumerate(value, start=1):
        message = _read_turn(turn)
        if isinstance(message, str):
            faults.append(f"message {index}: {message}")
        else:
            messages.append(message)
    if not canonical and not faults:
        if len(messages) < 2:
            faults.append("needs a prompt and the assistant's answer: at least two messages")
        elif messages[-1].role != "assistant":
            faults.append("the last message must be the assistant's: it is the completion")
    return tuple(messages), faults


def _read_turn(turn: Any) -> Message | str:
    if not isinstance(turn, dict):
        return f"must be an object with role and content, is {describe_type(turn)}"
    if "role" not in turn and "from" in turn:
        sender = turn["from"]
        role = _SHAREGPT_ROLES.get(sender.lower()) if isinstance(sender, str) else None
        content, accepted = turn.get("value"), tuple(_SHAREGPT_ROLES)
    else:
        role, content, accepted = turn.get("role"), turn.get("content"), ROLES
    if role not in ROLES:
        return f"role must be one of {', '.join(accepted)}"
    if turn.get("tool_calls") and not content:
        return "content must be text, is a tool call; remove rows with tool calls, or write the calls as text"
    content = _text_of_parts(content)
    if not isinstance(content, str):
        return f"content must be text, is {describe_type(content)}"
    if (fault := find_text_fault(content)) is not None:
        return f"content {fault}" if " " in fault else f"content is {fault}"
    return Message(role, content)


def _text_of_parts(content: Any) -> Any:
    """Join content that is a list of text parts, as OpenAI's API takes it; return anything else unchanged."""
    if not isinstance(content, list) or not content:
        return content
    values = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    texts = [value for value in values if isinstance(value, str)]
    return "\n".join(texts) if len(texts) == len(values) else content


_HALF_PAIR = re.compile("[\ud800-\udfff]")


def find_text_fault(text: str) -> str | None:
    """Return why a text cannot be a prompt or an answer; None if it can."""
    if not text.strip("\u200b\u2060\ufeff \t\r\n") or not text.strip():
        return "empty"
    if "\0" in text:
        return "contains a NUL character"
    if _HALF_PAIR.search(text):
        return "contains half of a surrogate pair, which UTF-8 cannot encode"
    return None


def describe_type(value: Any) -> str:
    """Describe the type of a value without revealing its content."""
    if isinstance(value, float) and value != value:  # noqa: PLR0124  NaN is not itself
        return "NaN, no value"
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "text"}
    return names.get(type(value), "a list" if isinstance(value, list) else f"a {type(value).__name__}")
