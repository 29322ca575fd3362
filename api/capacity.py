"""How many requests a process serves at once. One that is admitted always finds a thread and a connection.

Decision 28: a place is held from the first statement's session to its commit, so places, connections and threads are
the same number, and none of the three is waited for while another is held.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

from api.errors import ErrorCode, ServiceError

P = ParamSpec("P")
R = TypeVar("R")


class Places:
    """A number of places, and a bounded queue before them. First come, first served."""

    def __init__(self, num_places: int, *, max_waiting: int, wait_seconds: float) -> None:
        self._semaphore = asyncio.Semaphore(num_places)
        self._max_waiting, self._wait_seconds = max_waiting, wait_seconds
        self._threads = CapacityLimiter(num_places)
        self.num_waiting = 0

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Hold a place while the block runs.

        Raises:
            ServiceError: 503 at once if too many wait already, or after the longest wait.
        """
        if self._semaphore.locked() and self.num_waiting >= self._max_waiting:
            raise _make_busy_error()
        self.num_waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._semaphore.acquire()
        except TimeoutError:
            raise _make_busy_error() from None
        finally:
            self.num_waiting -= 1
        try:
            yield
        finally:
            self._semaphore.release()

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Hold a place while the function runs in a thread."""
        async with self.hold():
            return await self.run_in_thread(function, *args, **kwargs)

    async def run_in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function of a request that holds a place; there is a thread for each place."""
        return await to_thread.run_sync(lambda: function(*args, **kwargs), limiter=self._threads)


def _make_busy_error() -> ServiceError:
    return ServiceError(ErrorCode.BUSY, "the server is busy; try again", headers={"Retry-After": "1"})
