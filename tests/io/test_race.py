"""Several ways to one end: whatever nobody takes is discarded."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from knothole.io.race import first_of


@pytest.mark.parametrize("moment", range(10))
@pytest.mark.parametrize("failing", [0, 1])
async def test_a_race_that_is_cancelled_at_any_moment_leaves_nothing_open(
    moment: int, failing: int
) -> None:
    opened: list[object] = []
    closed: list[object] = []

    async def succeeds() -> object:
        await asyncio.sleep(0)
        opened.append(object())
        return opened[-1]

    async def fails() -> object:
        raise OSError

    race = asyncio.create_task(first_of([*[fails] * failing, succeeds], 60.0, closed.append))
    for _ in range(moment):
        await asyncio.sleep(0)
    race.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        opened.remove(await race)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert closed == opened


async def test_the_second_to_succeed_is_discarded() -> None:
    closed: list[str] = []
    begun = asyncio.Event()

    async def slow() -> str:
        try:
            await begun.wait()
            await asyncio.sleep(60.0)
        except asyncio.CancelledError:
            return "slow"  # it was there already
        raise AssertionError

    async def quick() -> str:
        begun.set()
        await asyncio.sleep(0)
        return "quick"

    assert await first_of([slow, quick], 0.0, closed.append) == "quick"
    assert closed == ["slow"]
