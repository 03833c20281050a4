"""Waking everybody who waits for something to have changed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class News:
    """Whoever waits in :meth:`next` is woken by the next :meth:`tell` and looks for itself."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Something has changed."""
        self._event.set()
        self._event = asyncio.Event()

    async def next(self) -> None:
        """Wait until something changes after this call."""
        await self._event.wait()


class Arrivals(Generic[T]):
    """Takes what stands in a queue, first come first, and waits for more until there is no more.

    ``next_news`` waits until something has changed, and answers False when nothing will.
    """

    def __init__(self, queue: deque[T], next_news: Callable[[], Awaitable[bool]]) -> None:
        self._queue = queue
        self._next_news = next_news

    def __aiter__(self) -> Arrivals[T]:
        return self

    async def __anext__(self) -> T:
        while not self._queue:
            if not await self._next_news() and not self._queue:
                raise StopAsyncIteration
        return self._queue.popleft()
