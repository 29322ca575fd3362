"""Renders a model's chat template and locates the answer in the text. Torch-free.

The engine renders with it, the API checks it at registration. It renders what `apply_chat_template` of transformers
renders (a check at load compares the two), except that the current date is always `date`.
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
#: Around the content of `{% generation %}` when it is to be located. Private-use characters, which users do not write.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_ANSWER_CHANGED = "the model's chat template changes this answer; set chat_template to another template"
#: Inputs of every template, which `chat_template_kwargs` cannot set.
RESERVED_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"})
#: A C library writes these in the language of the process, on which a rendering must not depend.
_ENGLISH = {
    "a": ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    "A": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "b": ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    "B": (
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
}
#: Formats that contain those above, or the time zone of the process.
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
    """The template cannot render this conversation, or any."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A rendered conversation, with the position of the last answer in `text`."""

    text: str
    answer_start: int  # in characters
    answer_end: int  # exclusive

    @property
    def answer(self) -> str:
        return self.text[self.answer_start : self.answer_end]


@dataclass(frozen=True)
class ChatTemplate:
    """A template with everything that determines its rendering."""

    source: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """Variables that transformers gives every template: `bos_token`, `eos_token`, ..."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Further variables, such as `enable_thinking`."""
    date: date = date(2024, 7, 26)
    """The current date as the template sees it."""

    @property
    def asks_for_date(self) -> bool:
        """Whether the template may write the current date."""
        return "strftime_now" in self.source

    def render(self, turns: Sequence[Turn], *, generation_prompt: bool = False) -> str:
        """Render turns; with `generation_prompt` up to where the model answers.

        Raises:
            TemplateError: the template refuses the turns.
        """
        return self._render(turns, generation_prompt=generation_prompt)

    def locate_answer(self, turns: Sequence[Turn], answer: str) -> Rendering:
        """Render `turns` followed by `answer`, and locate the answer in the text.

        Two other answers are rendered in its place: what all three renderings share belongs to the template. If that is
        ambiguous (the template writes the answer twice), the content of `{% generation %}` is the answer.

        Raises:
            TemplateError: the template changes the answer.
        """
        text = self.render([*turns, _assistant(answer)])
        if (frame := self._frame(turns)) is None:
            return self._locate_marked(turns, answer, text)
        head, tail = frame
        start = len(head) if text.startswith(head) else count_common_prefix(text, head)
        rest = text[start:]
        after = len(tail) if rest.endswith(tail) else count_common_prefix(rest[::-1], tail[::-1])
        rendering = Rendering(text, start, len(text) - after)
        if not contains_answer(rendering.answer, answer):
            raise TemplateError(_ANSWER_CHANGED)
        return rendering

    def get_answer_prefix(self, turns: Sequence[Turn]) -> str:
        """Return what the template writes between the generation prompt and an answer, such as an empty thinking block.

        Empty if the text before an answer does not start with the generation prompt.
        """
        frame, prompt = self._frame(turns), self.render(turns, generation_prompt=True)
        return frame[0][len(prompt) :] if frame is not None and frame[0].startswith(prompt) else ""

    def get_answer_suffix(self, turns: Sequence[Turn]) -> str:
        """Return what the template writes after an answer."""
        frame = self._frame(turns)
        return frame[1] if frame is not None else ""

    def _frame(self, turns: Sequence[Turn]) -> tuple[str, str] | None:
        """Return the text before and after every answer; None if the answer does not appear unchanged exactly once."""
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
                "{% generation %}; set chat_template to another template"
            )
        start = len(marked[:opened].replace(_OPEN, "").replace(_CLOSE, ""))
        inside = marked[opened + 1 : closed]
        shift = inside.find(answer.strip())
        if shift < 0:
            raise TemplateError(_ANSWER_CHANGED)
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
        except Exception as error:  # a template may raise any error of Jinja, of Python, or its own
            reason = str(error)
            if _quotes(reason, turns, self.source):
                reason = f"{type(error).__name__}, whose message quotes them"
            raise TemplateError(f"the model's chat template refuses these messages: {reason}") from error

    def _strftime(self, date_format: str) -> str:
        """Format the pinned date at midnight UTC, in English whatever the process's language and time zone are."""
        midnight = datetime(self.date.year, self.date.month, self.date.day, tzinfo=UTC)
        places = {"a": midnight.weekday(), "A": midnight.weekday(), "b": midnight.month - 1, "B": midnight.month - 1}
        names = {letter: _ENGLISH[letter][place] for letter, place in places.items()}
        for letter, spelled in (_COMPOSED | names | {"s": str(int(midnight.timestamp()))}).items():
            date_format = re.sub(rf"(?<!%)((?:%%)*)%-?{letter}", rf"\g<1>{spelled}", date_format)
        return midnight.strftime(date_format)


def check_syntax(source: str) -> None:
    """Raise TemplateError if a template does not compile."""
    try:
        _compiled(source, False)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"the chat template is not valid: line {error.lineno}: {error.message}") from error


def find_variables(source: str, special_tokens: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables that a template reads in addition to those that every template gets."""
    environment = _environment(False)
    undeclared = meta.find_undeclared_variables(environment.parse(source))
    return tuple(
        sorted(undeclared - RESERVED_VARIABLES - environment.globals.keys() - special_tokens.keys() - {"strftime_now"})
    )


def format_unread_variable(name: str, known: Sequence[str]) -> str:
    """Return the message about a variable in `chat_template_kwargs` that the template does not read."""
    return f"the chat template reads no variable '{name}'; it reads {', '.join(known) or 'none'}"


def _quotes(message: str, turns: Sequence[Turn], source: str) -> bool:
    """Return whether an error message has a word of the conversation that is not in the template itself."""
    contents = " ".join(str(turn.get("content", "")) for turn in turns)
    quoted, given, own = (set(re.findall(r"\w{3,}", text.lower())) for text in (message, contents, source))
    return not quoted.isdisjoint(given - own)


def count_common_prefix(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return the number of first items (or characters) that two sequences share."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (item, other) in pairs if item != other), min(len(first), len(second)))


def _assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def contains_answer(text: str, answer: str) -> bool:
    """Return whether a rendered text shows an answer: equal except for outer white space, or the same words in the same
    order (templates that parse a thinking block write it again).
    """
    if text.strip() == answer.strip():
        return bool(text.strip())
    rest, words = iter(_words(text)), _words(answer)
    return bool(words) and all(word in rest for word in words)


def _words(text: str) -> list[str]:
    """Return the words of a text without its special tokens."""
    return re.findall(r"\w+", re.sub(r"<[^<>]*>|\[/?[A-Z]+\]", " ", text))


class _Generation(Extension):
    """`{% generation %}` marks what the model writes: rendered between two characters to locate it, or plainly."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_render_content"), [], [], body).set_lineno(line)

    def _render_content(self, caller: Any) -> str:
        text = str(caller())
        return f"{_OPEN}{text}{_CLOSE}" if getattr(self.environment, "soul_marked", False) else text


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _refuse_random(*_: Any, **__: Any) -> None:
    raise TemplateError("the chat template makes a random choice, so two runs would see different texts")


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
    environment.filters["random"] = environment.globals["lipsum"] = _refuse_random
    environment.globals["raise_exception"] = _raise_exception
    return environment
