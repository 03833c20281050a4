from __future__ import annotations

import asyncio
from array import array
from itertools import pairwise

import pytest

from knothole.io.audio.backend import FRAME_BYTES, PacedSink, PacedSource
from knothole.io.audio.null import NullSource
from knothole.io.audio.tone import ToneSource
from knothole.lab.virtual_loop import VirtualLoop, run_virtually


class CountingSource(PacedSource):
    """Frames that carry their number, ten of them when ``end`` is 10."""

    def __init__(self, end: int | None = None) -> None:
        super().__init__()
        self.end = end
        self.number = 0

    def read(self) -> bytes | None:
        if self.number == self.end:
            return None
        self.number += 1
        return bytes([self.number % 256]) * FRAME_BYTES


class Recorder(PacedSink):
    def __init__(self) -> None:
        super().__init__()
        self.samples = 0
        self.fail = False

    def write(self, samples: bytes) -> None:
        if self.fail:
            raise OSError(28, "No space left on device")
        self.samples += len(samples) // 2


def loop() -> VirtualLoop:
    running = asyncio.get_running_loop()
    assert isinstance(running, VirtualLoop)
    return running


def test_frame_k_is_pushed_when_its_last_sample_has_been_spoken() -> None:
    async def main() -> list[float]:
        times: list[float] = []
        source = CountingSource()
        source.start(lambda frame: times.append(loop().time() - 1000), lambda error: None)
        await asyncio.sleep(60.01)
        source.close()
        return times

    times = run_virtually(main())
    assert len(times) == 3000
    assert max(abs(at - 0.02 * (k + 1)) for k, at in enumerate(times)) < 1e-6


def test_after_a_stall_what_was_due_follows_at_once_and_nothing_drifts() -> None:
    async def main() -> tuple[int, int, float]:
        times: list[float] = []
        source = CountingSource()
        source.start(lambda frame: times.append(loop().time() - 1000), lambda error: None)
        await asyncio.sleep(1.001)
        loop().stall(0.5)
        await asyncio.sleep(0)
        for _ in range(8):
            await asyncio.sleep(0)
        caught_up = len(times)
        await asyncio.sleep(1.0)
        source.close()
        return caught_up, len(times), times[-1]

    caught_up, count, last = run_virtually(main())
    assert caught_up == 75
    assert count == 125
    assert abs(last - 2.5) < 1e-6


def test_the_end_is_told_once_after_the_last_frame() -> None:
    async def main() -> tuple[int, list[object]]:
        frames: list[bytes] = []
        told: list[object] = []
        source = CountingSource(end=10)
        source.start(frames.append, told.append)
        await asyncio.sleep(1.0)
        return len(frames), told

    assert run_virtually(main()) == (10, [None])


def test_a_sink_pulls_exactly_as_much_as_time_has_passed() -> None:
    async def main() -> tuple[int, float]:
        dues: list[float] = []

        def pull(count: int, now: float) -> bytes:
            dues.append(now)
            return bytes(2 * (count if len(dues) % 7 else 133))  # short ones now and then

        sink = Recorder()
        sink.start(pull, lambda error: None)
        await asyncio.sleep(3.3)
        loop().stall(0.7)
        await asyncio.sleep(1.0101)
        sink.close()
        return sink.samples, dues[-1]

    samples, last_due = run_virtually(main())
    assert abs(samples - 48_000 * 5.01) <= 960
    assert 4.99 <= last_due - 1000 <= 5.01


def test_after_a_stall_what_has_arrived_comes_before_what_is_due() -> None:
    async def main() -> list[str]:
        order: list[str] = []

        def pull(count: int, now: float) -> bytes:
            order.append("pull")
            return bytes(2 * count)

        async def receive() -> None:
            await loop().sock_recv(ours, 10)
            await asyncio.sleep(0)  # from the socket to the line's receiver
            order.append("arrived")

        import socket

        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            sink = Recorder()
            sink.start(pull, lambda error: None)
            receiver = asyncio.create_task(receive())
            await asyncio.sleep(0.05)
            order.clear()
            theirs.send(b"packet")
            loop().stall(0.1)
            await receiver
            await asyncio.sleep(0.01)
            sink.close()
        return order

    order = run_virtually(main())
    assert order[0] == "arrived"
    assert order.count("pull") >= 5


def test_a_nudge_pulls_what_is_due_and_no_more() -> None:
    async def main() -> list[float]:
        pulled: list[float] = []

        def pull(count: int, now: float) -> bytes:
            pulled.append(loop().time() - 1000)
            return bytes(2 * count)

        sink = Recorder()
        sink.start(pull, lambda error: None)
        await asyncio.sleep(0.0201)
        sink.nudge()
        sink.nudge()
        await asyncio.sleep(0.03)
        sink.close()
        sink.nudge()
        return pulled

    pulled = run_virtually(main())
    assert [round(at, 3) for at in pulled] == [0.0, 0.02, 0.043]


@pytest.mark.parametrize("offset", [0.0, 0.007, 0.013])
def test_a_source_that_is_nudged_falls_into_step_and_loses_no_time(offset: float) -> None:
    async def main() -> tuple[list[float], int]:
        pushed: list[float] = []
        in_step = 0
        source = CountingSource()
        source.start(lambda frame: pushed.append(loop().time()), lambda error: None)
        await asyncio.sleep(offset)
        for _ in range(500):
            await asyncio.sleep(0.02)
            before = len(pushed)
            source.nudge()
            in_step += len(pushed) > before
        source.close()
        return pushed, in_step

    pushed, in_step = run_virtually(main())
    assert in_step > 440  # after a second at most
    assert 499 <= len(pushed) <= 501
    assert max(b - a for a, b in pairwise(pushed)) < 0.0235


def test_a_source_that_is_nudged_without_a_pause_keeps_its_pace() -> None:
    """Whoever talks to us has no say in how fast we speak."""

    async def main() -> list[float]:
        pushed: list[float] = []
        source = CountingSource()
        source.start(lambda frame: pushed.append(loop().time()), lambda error: None)
        for _ in range(100_000):
            await asyncio.sleep(0.0001)
            source.nudge()
        source.close()
        return pushed

    pushed = run_virtually(main())
    assert 490 <= len(pushed) <= 510  # of 500, a hundredth of a frame at most moved by each
    assert max(b - a for a, b in pairwise(pushed)) < 0.0235


def test_what_fails_is_told_and_ends_it() -> None:
    async def main() -> list[object]:
        told: list[object] = []
        sink = Recorder()
        sink.fail = True
        sink.start(lambda count, now: bytes(2 * count), told.append)
        await asyncio.sleep(0.5)
        return told

    told = run_virtually(main())
    assert [type(error) for error in told] == [OSError]


def test_the_tone_is_440_hz_without_a_seam() -> None:
    source = ToneSource()
    samples = array("h", b"".join(source.read() for _ in range(50)))
    rising = sum(1 for a, b in pairwise(samples) if a < 0 <= b)
    assert abs(rising - 440) <= 1
    steepest = max(abs(a - b) for a, b in pairwise(samples))
    assert steepest < 200
    assert max(samples) == 3277


def test_nothing_is_silence() -> None:
    assert NullSource().read() == bytes(FRAME_BYTES)
