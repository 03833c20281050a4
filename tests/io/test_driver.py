"""The driver: input, drain, re-arm, and no engine starves the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from knothole.engine.core import Datagram, Transmit
from knothole.io import driver as driver_module
from knothole.io.driver import Driver
from knothole.lab.virtual_loop import run_virtually
from knothole.wire.address import Address, Transport

HERE, THERE = Address("192.0.2.1", 1), Address("192.0.2.2", 2)


class Scripted:
    """An engine that records what it is told and says what it was given to say."""

    def __init__(self) -> None:
        self.to_say: list[object] = []
        self.endless = False
        self.due: float | None = None
        self.handled: list[float] = []
        self.received: list[Datagram] = []

    def receive(self, datagram: Datagram, now: float) -> None:
        self.received.append(datagram)
        self.to_say.append(("echo", datagram.payload))

    def handle_timeout(self, now: float) -> None:
        self.handled.append(now)
        self.due = None
        self.to_say.append("timeout")

    def next_timeout(self) -> float | None:
        return self.due

    def outputs(self) -> Iterator[object]:
        while self.to_say or self.endless:
            yield self.to_say.pop(0) if self.to_say else "more"


class Wire:
    def __init__(self) -> None:
        self.sent: list[Datagram] = []
        self.is_blocked = False
        self.waiting: list[Callable[[], None]] = []

    def send(self, datagram: Datagram) -> None:
        self.sent.append(datagram)

    def when_writable(self, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)


def transmit(payload: bytes, transport: Transport = Transport.UDP) -> Transmit:
    return Transmit(Datagram(HERE, THERE, payload, transport=transport))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_input_is_followed_by_the_outputs_it_causes() -> None:
    engine, said = Scripted(), []
    driver = Driver(engine, said.append)
    driver.receive([Datagram(THERE, HERE, b"a"), Datagram(THERE, HERE, b"b")])
    assert said == [("echo", b"a"), ("echo", b"b")]
    driver.close()


async def test_a_transmit_goes_to_the_link_of_its_source_and_elsewhere_nowhere() -> None:
    engine, udp, tcp = Scripted(), Wire(), Wire()
    driver = Driver(engine, lambda output: None)
    driver.attach(udp, HERE)
    driver.attach(tcp, HERE, Transport.TCP, THERE)
    engine.to_say = [transmit(b"1"), transmit(b"2", Transport.TCP), transmit(b"3", Transport.TLS)]
    driver.wake()
    await turns()
    assert [datagram.payload for datagram in udp.sent] == [b"1"]
    assert [datagram.payload for datagram in tcp.sent] == [b"2"]
    driver.detach(HERE)
    engine.to_say = [transmit(b"4")]
    driver.wake()
    await turns()
    assert len(udp.sent) == 1
    driver.close()


async def test_a_command_gets_the_time_and_its_result_comes_back() -> None:
    engine, said = Scripted(), []
    driver = Driver(engine, said.append, clock=lambda: 42.0)

    def command(now: float) -> float:
        engine.to_say.append("done")
        return now

    assert driver.command(command) == 42.0
    await turns()
    assert said == ["done"]
    driver.close()


async def test_a_command_that_fails_raises_to_its_caller_and_the_engine_is_drained() -> None:
    engine, said = Scripted(), []
    driver = Driver(engine, said.append)

    def command(now: float) -> None:
        engine.to_say.append("half done")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        driver.command(command)
    await turns()
    assert said == ["half done"]
    driver.close()


async def test_an_engine_is_woken_when_it_asked_and_not_before() -> None:
    engine, said, time = Scripted(), asyncio.Queue(), [0.0]
    driver = Driver(engine, said.put_nowait, clock=lambda: time[0])
    engine.due = 0.01
    driver.wake()
    await asyncio.sleep(0.05)
    assert engine.handled == []  # by the driver's clock it is not due yet
    time[0] = 0.02
    async with asyncio.timeout(40):
        assert await said.get() == "timeout"
    assert engine.handled == [0.02]
    driver.close()


async def test_an_earlier_timeout_replaces_a_later_one() -> None:
    engine, said = Scripted(), asyncio.Queue()
    loop = asyncio.get_running_loop()
    driver = Driver(engine, said.put_nowait, clock=loop.time)
    engine.due = loop.time() + 3600
    driver.wake()
    await turns()
    engine.due = loop.time() + 0.001
    driver.wake()
    async with asyncio.timeout(40):
        assert await said.get() == "timeout"
    driver.close()


def test_a_timer_that_would_soon_wake_for_nothing_is_moved() -> None:
    class Asked(Scripted):
        times = 0

        def next_timeout(self) -> float | None:
            self.times += 1
            return self.due

    async def main() -> int:
        engine, said = Asked(), asyncio.Queue()
        loop = asyncio.get_running_loop()
        driver = Driver(engine, said.put_nowait, clock=loop.time)
        for seconds in (0.005, 0.03):
            engine.due = loop.time() + seconds
            driver.wake()
            await turns()
        assert await said.get() == "timeout"
        driver.close()
        return engine.times

    assert run_virtually(main()) == 4  # after each of two turns, and before and after the timeout


async def test_an_engine_that_always_has_more_leaves_turns_to_others() -> None:
    engine, said = Scripted(), []
    driver = Driver(engine, said.append)
    engine.endless = True
    driver.wake()
    await turns(4)
    assert 0 < len(said) <= 5 * driver_module.OUTPUTS_A_TURN
    driver.close()
    count = len(said)
    await turns(4)
    assert len(said) == count


async def test_nothing_is_drained_while_a_link_is_blocked_but_input_and_time_go_on() -> None:
    engine, wire, said = Scripted(), Wire(), []
    driver = Driver(engine, said.append)
    driver.attach(wire, HERE)
    wire.is_blocked = True
    engine.to_say = [transmit(b"1"), transmit(b"2"), "event"]
    driver.wake()
    await turns()
    driver.receive([Datagram(THERE, HERE, b"in")])
    assert [datagram.payload for datagram in wire.sent] == [b"1"]
    assert len(engine.received) == 1
    assert said == []
    wire.is_blocked = False
    (callback,) = wire.waiting
    callback()
    assert [datagram.payload for datagram in wire.sent] == [b"1", b"2"]
    assert said == ["event", ("echo", b"in")]
    driver.close()


async def test_a_blocked_link_that_is_detached_blocks_no_more() -> None:
    engine, wire, said = Scripted(), Wire(), []
    driver = Driver(engine, said.append)
    driver.attach(wire, HERE)
    wire.is_blocked = True
    engine.to_say = [transmit(b"1"), "event"]
    driver.wake()
    await turns()
    assert said == []
    driver.detach(HERE)
    await turns()
    assert said == ["event"]
    driver.close()


async def test_a_handler_may_give_commands_and_close_the_driver() -> None:
    engine, said = Scripted(), []

    def handle(output: object) -> None:
        said.append(output)
        if output == "first":
            driver.command(lambda now: engine.to_say.append("second"))
        if output == "second":
            driver.close()

    driver = Driver(engine, handle)
    engine.to_say = ["first"]
    driver.wake()
    await turns()
    engine.to_say.append("third")
    driver.wake()
    driver.receive([Datagram(THERE, HERE, b"late")])
    await turns()
    assert said == ["first", "second"]
    assert engine.received == []
