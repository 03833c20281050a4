from __future__ import annotations

import asyncio
import time

import pytest

from knothole.lab.lossy_line import lossy_lines
from knothole.lab.virtual_loop import VirtualLoop, run_virtually
from knothole.peer.errors import LineClosed


def test_an_hour_of_virtual_time_takes_no_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(3600):
            await asyncio.sleep(1.0)
        return loop.time() - began

    began = time.monotonic()
    assert run_virtually(main()) == pytest.approx(3600)
    assert time.monotonic() - began < 60


def test_work_for_threads_is_done_at_once_and_errors_reach_who_waits() -> None:
    async def main() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return await asyncio.to_thread(lambda: 7), loop.time() - began

    assert run_virtually(main()) == (7, 0.0)


def test_a_stall_lets_time_pass_in_one_piece() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        woken: list[float] = []
        for number in range(5):
            loop.call_later(number, lambda: woken.append(loop.time()))
        await asyncio.sleep(0.5)
        loop.stall(10)
        await asyncio.sleep(1)
        return woken

    woken = run_virtually(main())
    assert woken[1:] == pytest.approx([1010.5] * 4)


def test_a_line_delays_and_loses_the_same_every_time() -> None:
    async def main() -> list[tuple[int, float]]:
        a, b = lossy_lines(delay_seconds=0.03, jitter_seconds=0.01, loss=0.2, seed=5)
        loop = asyncio.get_running_loop()
        arrived: list[tuple[int, float]] = []

        async def receive() -> None:
            while True:
                data = await b.receive_datagram()
                arrived.append((data[0], round(loop.time(), 6)))

        task = asyncio.create_task(receive())
        for number in range(200):
            a.send_datagram(bytes([number]))
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        task.cancel()
        assert a.sent == 200 and a.dropped == 200 - len(arrived)
        return arrived

    first, second = run_virtually(main()), run_virtually(main())
    assert first == second
    assert 140 < len(first) < 180
    delays = [at - 1000 - number * 0.02 for number, at in first]
    assert min(delays) > 0.0299 and max(delays) < 0.0401


def test_a_closed_line_raises_at_both_ends() -> None:
    async def main() -> None:
        a, b = lossy_lines()
        a.close()
        with pytest.raises(LineClosed):
            a.send_datagram(b"x")
        for end in (a, b):
            for _ in range(2):
                with pytest.raises(LineClosed):
                    await end.receive_datagram()

    run_virtually(main())
