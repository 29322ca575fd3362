"""Wakes the streams and waiting requests of a process when their job or key changes: one connection serves them all."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar, cast

import psycopg

from soul_store.notifications import listen

log = logging.getLogger(__name__)

T = TypeVar("T")
#: While the connection is lost, everything waiting looks for itself at this interval.
_RECONNECT_SECONDS = 1.0


class Subscription:
    """What one stream or waiting request waits for."""

    def __init__(self, feed: "JobFeed", ids: tuple[str, ...]) -> None:
        self._feed, self.ids = feed, ids
        self.event = asyncio.Event()

    @property
    def generation(self) -> tuple[int, ...]:
        """A value that differs after every change of the ids: what was read at another value may be old."""
        return (self._feed.num_connections, *(self._feed.count_changes(name) for name in self.ids))

    async def wait(self, seconds: float) -> None:
        """Return after a change since the last call, or after some seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.event.wait()
        self.event.clear()


class JobFeed:
    """The ids that are waited for, and their subscriptions."""

    def __init__(self) -> None:
        self._subscriptions: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._num_changes: dict[str, int] = {}
        self._reads: dict[Hashable, asyncio.Future[Any]] = {}
        self.num_connections = 0

    def count_changes(self, name: str) -> int:
        """Return how often an id has changed since it is waited for."""
        return self._num_changes.get(name, 0)

    @contextmanager
    def subscribe(self, *ids: str) -> Iterator[Subscription]:
        """Wait for changes of these jobs and keys while the block runs."""
        subscription = Subscription(self, ids)
        for name in ids:
            self._subscriptions[name].add(subscription)
        try:
            yield subscription
        finally:
            for name in ids:
                self._subscriptions[name].discard(subscription)
                if not self._subscriptions[name]:
                    del self._subscriptions[name]
                    self._num_changes.pop(name, None)

    async def share(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """Return what `read` returns; callers with an equal key at the same time share one call."""
        task = self._reads.get(key)
        if task is None:
            task = asyncio.ensure_future(read())
            self._reads[key] = task
            task.add_done_callback(lambda _: self._reads.pop(key, None))
        return cast("T", await asyncio.shield(task))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the block runs; after a lost connection, wake all of them and connect again."""
        task = asyncio.create_task(self._listen())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _listen(self) -> None:
        is_lost = False
        while True:
            try:
                async for name in listen():
                    if name:
                        self._wake(name)
                    else:  # what changed while the process did not listen
                        is_lost = False
                        self._wake_all()
            except (psycopg.Error, OSError) as error:
                if not is_lost:
                    log.warning("no notifications from the database; connecting again", extra={"reason": str(error)})
                is_lost = True
            self._wake_all()
            await asyncio.sleep(_RECONNECT_SECONDS)

    def _wake(self, name: str) -> None:
        if name in self._subscriptions:
            self._num_changes[name] = self._num_changes.get(name, 0) + 1
            for subscription in self._subscriptions[name]:
                subscription.event.set()

    def _wake_all(self) -> None:
        self.num_connections += 1
        for name in list(self._subscriptions):
            self._wake(name)
