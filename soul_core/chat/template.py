"""A model's chat template: conversations to text, and where in the text an answer stands. Torch-free.

The engine renders with it, the API checks it at registration. It renders what `apply_chat_template` of transformers
renders (a self-check at load compares the two), with one difference: the clock stands still at `date`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache, lru_cache
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Turn = Mapping[str, Any]
"""One message: role and content."""

#: Answers that are rendered to find where a template puts an answer.
_PROBES = ("Kappa nine zero", "Wolke sieben x")
#: Around what `{% generation %}` holds, while it is asked for. Private-use characters that no text of a user has.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
#: Names of the template's own inputs, which `chat_template_kwargs` cannot set.
RESERVED_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"})
#: A C library writes these in the language of the process; a template's text must not depend on it.
_ENGLISH = {
    "a": ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    "A": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "b": ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    "B": (
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
}
#: Other spellings of what is above, and of what has the time zone of the process in it.
_COMPOSED = {
    "c": "%a %b %e %H:%M:%S %Y",
    "x": "%m/%d/%y",
    "X": "%H:%M:%S",
    "h": "%b",
    "p": "AM",
    "Z": "UTC",
    "z": "+0000",
}


class TemplateError(ValueError):
    """A template that cannot be followed, for this conversation or at all."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A conversation as its template renders it, and where in `text` its last answer stands."""

    text: str
    answer_start: int  # of the answer, in characters
    answer_end: int  # after the answer

    @property
    def answer(self) -> str:
        return self.text[self.answer_start : self.answer_end]


@dataclass(frozen=True)
class ChatTemplate:
    """A template with everything that decides what it renders."""

    source: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """Variables that transformers gives every template: `bos_token`, `eos_token`, ..."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Further variables, such as `enable_thinking`."""
    date: date = date(2024, 7, 26)
    """The day on which templates render that ask for it."""

    @property
    def asks_for_date(self) -> bool:
        """Say whether the template may write the current date."""
        return "strftime_now" in self.source

    def render(self, turns: Sequence[Turn], *, generation_prompt: bool = False) -> str:
        """Render turns; with `generation_prompt` up to where the model is asked to answer. Raises TemplateError."""
        return self._render(turns, generation_prompt=generation_prompt)

    def locate_answer(self, turns: Sequence[Turn], answer: str) -> Rendering:
        """Render `turns` answered by `answer` and find the answer in the text.

        Two other answers are rendered in its place: what all three have in common is the template's. Where that is not
        enough (a template that writes the answer twice), what the template marks as `{% generation %}` counts.
        Raises TemplateError for a template that does not show the answer as it is.
        """
        text = self.render([*turns, _assistant(answer)])
        if (frame := self._frame(turns)) is None:
            return self._locate_marked(turns, answer, text)
        head, tail = frame
        start = len(head) if text.startswith(head) else count_common_prefix(text, head)
        rest = text[start:]
        after = len(tail) if rest.endswith(tail) else count_common_prefix(rest[::-1], tail[::-1])
        found = Rendering(text, start, len(text) - after)
        if not contains_answer(found.answer, answer):
            raise TemplateError("the model's chat template does not show this answer as it is")
        return found

    def get_answer_prefix(self, turns: Sequence[Turn]) -> str:
        """Return what the template writes between the generation prompt and an answer, such as an empty thinking block.

        Empty where the one does not continue the other.
        """
        frame, asked = self._frame(turns), self.render(turns, generation_prompt=True)
        return frame[0][len(asked) :] if frame is not None and frame[0].startswith(asked) else ""

    def get_answer_suffix(self, turns: Sequence[Turn]) -> str:
        """Return what the template writes after an answer."""
        frame = self._frame(turns)
        return frame[1] if frame is not None else ""

    def _frame(self, turns: Sequence[Turn]) -> tuple[str, str] | None:
        """Return what stands before and after every answer; None where an answer does not stand once, as it is."""
        first, second = (self.render([*turns, _assistant(probe)]) for probe in _PROBES)
        head, _, tail = first.partition(_PROBES[0])
        return (head, tail) if second == head + _PROBES[1] + tail else None

    def _locate_marked(self, turns: Sequence[Turn], answer: str, text: str) -> Rendering:
        marked = self._render([*turns, _assistant(answer)], generation_prompt=False, marked=True)
        opened = marked.rfind(_OPEN)
        closed = marked.find(_CLOSE, opened)
        plain = marked.replace(_OPEN, "").replace(_CLOSE, "")
        if opened < 0 or closed < 0 or plain != text:
            raise TemplateError(
                "the model's chat template changes the answer or shows it more than once, and does not mark it with "
                "{% generation %}; give a template of your own (chat_template)"
            )
        start = len(marked[:opened].replace(_OPEN, "").replace(_CLOSE, ""))
        inside = marked[opened + 1 : closed]
        shift = inside.find(answer.strip())
        if shift < 0:
            raise TemplateError("the model's chat template does not show this answer as it is")
        return Rendering(text, start + shift, start + shift + len(answer.strip()))

    def _render(self, turns: Sequence[Turn], *, generation_prompt: bool, marked: bool = False) -> str:
        try:
            template = _compiled(self.source, marked)
            return str(
                template.render(
                    **{
                        **self.special_tokens,
                        **self.kwargs,
                        "strftime_now": self._strftime,
                        "messages": [dict(turn) for turn in turns],
                        "tools": None,
                        "documents": None,
                        "add_generation_prompt": generation_prompt,
                    }
                )
            )
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"the chat template is not valid: line {error.lineno}: {error.message}") from error
        except TemplateError:
            raise
        except Exception as error:  # a template may raise anything: jinja's errors, Python's, its own complaints
            reason = str(error)
            if _quotes(reason, turns, self.source):
                reason = f"{type(error).__name__}, whose message quotes them"
            raise TemplateError(f"the model's chat template refuses these messages: {reason}") from error

    def _strftime(self, wanted: str) -> str:
        """Write the pinned date at midnight UTC, in English whatever the process's language and time zone are."""
        at = datetime(self.date.year, self.date.month, self.date.day, tzinfo=UTC)
        places = {"a": at.weekday(), "A": at.weekday(), "b": at.month - 1, "B": at.month - 1}
        names = {letter: _ENGLISH[letter][place] for letter, place in places.items()}
        for letter, spelled in (_COMPOSED | names | {"s": str(int(at.timestamp()))}).items():
            wanted = re.sub(rf"(?<!%)((?:%%)*)%-?{letter}", rf"\g<1>{spelled}", wanted)
        return at.strftime(wanted)


def check_syntax(source: str) -> None:
    """Raise TemplateError for a template that does not compile."""
    try:
        _compiled(source, False)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"the chat template is not valid: line {error.lineno}: {error.message}") from error


def find_variables(source: str, special_tokens: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables a template reads, beside those that every template is given."""
    environment = _environment(False)
    undeclared = meta.find_undeclared_variables(environment.parse(source))
    return tuple(
        sorted(undeclared - RESERVED_VARIABLES - environment.globals.keys() - special_tokens.keys() - {"strftime_now"})
    )


def format_unread_variable(name: str, known: Sequence[str]) -> str:
    """Return what is said of a variable in `chat_template_kwargs` that the template does not read."""
    return f"the chat template reads no variable '{name}'; it reads {', '.join(known) or 'none'}"


def _quotes(message: str, turns: Sequence[Turn], source: str) -> bool:
    """Return whether an error message has a word of the conversation that is not in the template itself."""
    contents = " ".join(str(turn.get("content", "")) for turn in turns)
    quoted, given, own = (set(re.findall(r"\w{3,}", text.lower())) for text in (message, contents, source))
    return not quoted.isdisjoint(given - own)


def count_common_prefix(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return how many items (or characters) two sequences share at their beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(first), len(second)))


def _assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def contains_answer(text: str, answer: str) -> bool:
    """Say whether a text shows what was given: the same but for white space at its ends, or the same words in the same
    order (templates that parse a thinking block write it anew).
    """
    if text.strip() == answer.strip():
        return bool(text.strip())
    rest, words = iter(_words(text)), _words(answer)
    return bool(words) and all(word in rest for word in words)


def _words(text: str) -> list[str]:
    """Return the words of a text without its marks."""
    return re.findall(r"\w+", re.sub(r"<[^<>]*>|\[/?[A-Z]+\]", " ", text))


class _Generation(Extension):
    """`{% generation %}` marks what the model writes; here it is shown between two marks, or plainly."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_shown"), [], [], body).set_lineno(line)

    def _shown(self, caller: Any) -> str:
        text = str(caller())
        return f"{_OPEN}{text}{_CLOSE}" if getattr(self.environment, "soul_marked", False) else text


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _no_chance(*_: Any, **__: Any) -> None:
    raise TemplateError("the chat template makes a random choice, so no two runs would see the same text")


@lru_cache(maxsize=64)
def _compiled(source: str, marked: bool) -> jinja2.Template:
    return _environment(marked).from_string(source)


@cache
def _environment(marked: bool) -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.extend(soul_marked=marked)
    environment.filters["tojson"] = _tojson
    environment.filters["random"] = environment.globals["lipsum"] = _no_chance
    environment.globals["raise_exception"] = _raise_exception
    return environment
