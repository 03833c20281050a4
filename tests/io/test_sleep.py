"""Waking from a sleep is noticed, a hesitation is none."""

from __future__ import annotations

import asyncio

import pytest

from knothole.io.sleep import LOOK_SECONDS, SLEPT_SECONDS, SleepWatch, elapsed


@pytest.mark.parametrize(
    ("seconds", "slept"),
    [(LOOK_SECONDS, False), (LOOK_SECONDS + SLEPT_SECONDS / 2, False), (30.0, True)],
)
async def test_a_look_that_comes_much_too_late_means_sleep(seconds: float, slept: bool) -> None:
    now, told = [100.0], list[float]()
    watch = SleepWatch(lambda: told.append(now[0]), clock=lambda: now[0])
    now[0] += seconds
    watch.look()
    watch.look()
    watch.close()
    assert bool(told) is slept
    assert len(told) <= 1


async def test_it_looks_by_itself() -> None:
    woken = asyncio.Event()
    later = iter(range(0, 10**6, 100))
    watch = SleepWatch(woken.set, clock=lambda: float(next(later)))
    async with asyncio.timeout(40):
        await woken.wait()
    watch.close()


def test_the_clock_goes_on() -> None:
    before = elapsed()
    assert elapsed() >= before
