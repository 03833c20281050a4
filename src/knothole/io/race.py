"""Several ways to the same end, each begun a little later than the one before; the first wins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

Way = Callable[[], Awaitable[T]]


async def first_of(
    ways: Sequence[Way[T]], head_start_seconds: float, discard: Callable[[T], None]
) -> T:
    """What the first of ``ways`` that succeeds gives; those under way then are cancelled.

    A way begins when the one before has failed, or has taken ``head_start_seconds``. When all fail
    the first one's OSError or TimeoutError is raised; any other error ends the race. ``discard``
    gets what nobody takes: of ways that came second, or when the race itself is cancelled.
    """
    attempts: list[asyncio.Future[T]] = []
    waiting = list(ways)
    winner: asyncio.Future[T] | None = None
    try:
        while True:
            if waiting:
                attempts.append(asyncio.ensure_future(waiting.pop(0)()))
            pending = [each for each in attempts if not each.done()]
            if pending:
                await asyncio.wait(
                    pending,
                    timeout=head_start_seconds if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            for each in attempts:
                if each.done():
                    error = each.exception()
                    if error is None:
                        winner = each
                        return each.result()
                    if not isinstance(error, (OSError, TimeoutError)):
                        raise error
            if not waiting and all(each.done() for each in attempts):
                error = attempts[0].exception()
                assert error is not None
                raise error
    finally:
        for each in attempts:
            each.cancel()
        try:
            await asyncio.gather(*attempts, return_exceptions=True)
        except asyncio.CancelledError:
            winner = None  # nobody takes it either
            raise
        finally:
            for each in attempts:
                if each is not winner:
                    when_done(each, discard)


def when_done(attempt: asyncio.Future[T], discard: Callable[[T], None]) -> None:
    """Give ``discard`` what the attempt comes to, if that is anything: now, or when it is over."""
    if not attempt.done():
        attempt.add_done_callback(lambda done: when_done(done, discard))
    elif not attempt.cancelled() and attempt.exception() is None:
        discard(attempt.result())
