"""Translates pydantic's validation errors into the problems of a request."""

from collections.abc import Iterator, Mapping
from typing import Any

from api.errors import RequestProblem
from soul_core.near_spelling import find_nearest, shorten


def make_request_problems(error: Mapping[str, Any], body: Any) -> Iterator[RequestProblem]:
    """Yield the problems of one validation error: one, except for refused keys, which pydantic reports together."""
    pointer = make_pointer(error, body)
    if error["type"] != "refused_key":
        yield RequestProblem(pointer, format_validation_error(error))
        return
    keys, hints = error["ctx"]["keys"], str(error["ctx"]["hints"]).split(" | ")
    if len(keys) != len(hints):  # a key contains the separator itself
        hints = [str(error["ctx"]["hints"])] * len(keys)
    for key, hint in zip(keys, hints, strict=True):
        yield RequestProblem(f"{pointer}/{_escape(key)}", hint)


def format_validation_error(error: Mapping[str, Any]) -> str:
    """Return a validation error as a message, with the nearest known spelling."""
    context = error.get("ctx", {})
    if error["type"] == "union_tag_invalid":
        known = [tag.strip().strip("'") for tag in str(context["expected_tags"]).split(",")]
        near = find_nearest(str(context["tag"]), known, cutoff=0.5)
        hint = f"did you mean '{near}'? " if near else ""
        tag = str(context["discriminator"]).strip("'")
        return f"unknown {tag} '{shorten(str(context['tag']))}'; {hint}known: {', '.join(known)}"
    if error["type"] == "union_tag_not_found":
        return f"{context['discriminator']} is missing: it selects one of the choices"
    if error["type"] == "extra_forbidden":
        return f"unknown key '{shorten(str(error['loc'][-1]))}'"
    return str(error["msg"]).removeprefix("Value error, ")


def make_pointer(error: Mapping[str, Any], body: Any) -> str:
    """Return the JSON pointer of a validation error.

    pydantic's path also names the selected member of a union, which is not a key of the body and is left out.
    """
    source, *path = error["loc"] or ("body",)
    if source != "body":
        return "/".join(["", str(source), *map(str, path)])
    parts: list[str] = []
    current = body
    for part in path:
        if part == "[key]":  # pydantic's mark that the key itself is wrong; the part before it is that key
            continue
        if isinstance(current, dict) and part not in current and error["type"] != "missing":
            continue  # the kind of a union's member, given in the body or by default
        parts.append(_escape(part))
        try:
            current = current[part]
        except (KeyError, IndexError, TypeError):
            current = None
    if error["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        parts.append(str(error["ctx"]["discriminator"]).strip("'"))
    return "".join(f"/{part}" for part in parts)


def _escape(part: object) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")
