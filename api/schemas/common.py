"""What the bodies of several resources share."""

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

#: Letters that are shown: no control characters, no line breaks, nothing that turns the direction of writing around.
LINE_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=LINE_PATTERN)]
T = TypeVar("T")


class ResponseModel(BaseModel):
    """Base of the bodies of responses."""

    model_config = ConfigDict(from_attributes=True)


class HasId(Protocol):
    """A row with an id."""

    @property
    def id(self) -> str: ...


Row = TypeVar("Row", bound=HasId)


class Page(ResponseModel, Generic[T]):
    """One page of a list, newest first."""

    data: list[T]
    has_more: bool = False
    next_cursor: str | None = Field(None, description="Send it as `cursor` to get the next page.")

    @classmethod
    def of(cls, rows: Sequence[Row], limit: int, to_out: Callable[[Row], T]) -> "Page[T]":
        """Return the first `limit` rows as a page; `rows` has one row more if another page follows."""
        return cls.of_all(rows, limit, lambda shown: list(map(to_out, shown)))

    @classmethod
    def of_all(cls, rows: Sequence[Row], limit: int, to_outs: Callable[[Sequence[Row]], list[T]]) -> "Page[T]":
        """Return a page as `of` does, with all of its rows turned into bodies by one call."""
        shown, has_more = rows[:limit], len(rows) > limit
        return cls(data=to_outs(shown), has_more=has_more, next_cursor=shown[-1].id if has_more else None)
