"""One line between two ends: path zero, the first path, silence, doubt, the farewell."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from knothole.engine.connection import (
    DOUBT_SECONDS,
    GONE_SECONDS,
    PATH_ZERO_BYTES,
    Connection,
    EarlyDatagrams,
    Loss,
    Lost,
    PathChanged,
    PathSuspect,
)
from knothole.engine.core import Datagram
from knothole.engine.ice import BETWEEN_KNOTHOLES, IceAgent
from knothole.engine.ice.credentials import generate_credentials
from knothole.engine.secure.events import Closed, DatagramReceived
from knothole.engine.secure.identity import Identity
from knothole.engine.secure.quic import SecureChannel
from knothole.engine.secure.words import words_commitment
from knothole.lab.sim import Link, World
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, CandidateKind

HOSTS = (Address("1.1.1.1", 5000), Address("2.2.2.2", 5000))
EARLY_SECONDS = 0.02


class Line:
    """Both ends, answered at once; ``open`` says whether datagrams get through."""

    def __init__(self, *, open_: bool = True) -> None:
        self.world = World(1)
        self.open = open_
        self.early_bytes = [0, 0]
        source = random.Random(7)
        caller, callee = (Identity.generate(source.randbytes) for _ in range(2))
        nonces = source.randbytes(32), source.randbytes(32)
        credentials = [generate_credentials(source.randbytes) for _ in range(2)]
        client = SecureChannel.client(caller, nonces[0], 0.0)
        server = SecureChannel.server(
            callee,
            caller.public_key,
            client.first_flight,
            words_commitment(nonces[0]),
            nonces[1],
            0.0,
        )
        flight = tuple(server.datagrams(0.0))
        client.expect_server(callee.public_key, nonces[1], 0.0)
        self.programs = []
        for number, channel in enumerate((client, server)):
            ice = IceAgent(
                controlling=number == 0,
                local=credentials[number],
                tie_breaker=number,
                random=source.randbytes,
                now=0.0,
                options=BETWEEN_KNOTHOLES,
            )
            for side in (number, 1 - number):
                candidate = Candidate("1", 1, "udp", 1000, HOSTS[side], CandidateKind.HOST, None)
                if side == number:
                    ice.add_local_candidate(candidate, HOSTS[side], 0.0)
                else:
                    ice.set_remote_credentials(credentials[side], 0.0)
                    ice.add_remote_candidate(candidate, 0.0)
            host = self.world.host(f"end{number}", HOSTS[number].host, link=Link(0.01))
            end = _Gate(self, Connection(ice=ice, channel=channel))
            self.programs.append(
                host.run(
                    end,
                    HOSTS[number],
                    on_event=lambda event, now, number=number: self._carry(number, event),
                )
            )
        for number in (0, 1):
            self.do(number, lambda connection, now: connection.signalling_ready(now))
        self.do(0, lambda connection, now: connection.receive_early(flight, now))

    def do(self, number: int, command) -> Any:
        return self.programs[number].call(lambda gate, now: command(gate.connection, now))

    def send(self, number: int, data: bytes) -> None:
        def send(connection: Connection, now: float) -> None:
            connection.channel.send_datagram(data)
            connection.flush(now)

        self.do(number, send)

    def events(self, number: int, kind: type) -> list[Any]:
        return self.programs[number].events_of(kind)

    def received(self, number: int) -> list[bytes]:
        return [event.data for event in self.events(number, DatagramReceived)]

    def _carry(self, number: int, event: object) -> None:
        if isinstance(event, EarlyDatagrams):
            self.early_bytes[number] += sum(map(len, event.datagrams))
            self.world.after(
                EARLY_SECONDS,
                lambda: self.do(1 - number, lambda c, now: c.receive_early(event.datagrams, now)),
            )


class _Gate:
    """A connection whose datagrams are lost while the line is not open."""

    def __init__(self, line: Line, connection: Connection) -> None:
        self.line, self.connection = line, connection

    def receive(self, datagram: Datagram, now: float) -> None:
        if self.line.open:
            self.connection.receive(datagram, now)

    def handle_timeout(self, now: float) -> None:
        self.connection.handle_timeout(now)

    def next_timeout(self) -> float | None:
        return self.connection.next_timeout()

    def outputs(self) -> Iterator[Any]:
        waiting = deque(self.connection.outputs())
        while waiting:
            yield waiting.popleft()


@pytest.fixture
def line() -> Line:
    """A line whose path was found."""
    line = Line()
    line.world.run(1.0)
    assert all(line.events(number, PathChanged)[-1].path is not None for number in (0, 1))
    return line


def test_payload_takes_path_zero_until_there_is_a_path() -> None:
    line = Line(open_=False)
    line.world.run(0.5)
    line.send(0, b"over the signalling")
    line.world.run(0.1)
    assert line.received(1) == [b"over the signalling"]
    line.open = True
    line.world.run(1.0)
    before = line.early_bytes[0]
    line.send(0, b"over the path")
    line.world.run(0.1)
    assert line.received(1)[-1] == b"over the path"
    assert line.early_bytes[0] == before


def test_path_zero_is_bounded_and_the_rest_goes_over_the_path() -> None:
    line = Line(open_=False)
    line.world.run(0.5)
    for number in range(200):
        line.send(0, bytes([number]) * 1000)
        line.world.run(0.02)
    assert line.early_bytes[0] <= PATH_ZERO_BYTES + 12 * 1200
    line.open = True
    line.world.run(2.0)
    line.send(0, b"after")
    line.world.run(0.1)
    assert line.received(1)[-1] == b"after"


def test_idle_path_is_not_suspect(line) -> None:
    before = [len(line.events(number, PathSuspect)) for number in (0, 1)]
    line.world.run(120.0)
    after = [len(line.events(number, PathSuspect)) for number in (0, 1)]
    # Once after each ping of either end at most: packets came, and then none.
    assert all(b - a <= 24 for a, b in zip(before, after, strict=True))
    assert not line.events(0, Lost)


def test_line_without_path_from_the_beginning_says_so() -> None:
    line = Line(open_=False)
    for number in (0, 1):
        line.programs[number].on_event = None
    line.world.run(GONE_SECONDS + 0.1)
    assert line.events(0, Lost) == [Lost(Loss.NO_PATH)]


def test_silence_ends_a_line_after_forty_seconds_and_not_before(line) -> None:
    line.open = False
    for number in (0, 1):
        line.programs[number].on_event = None
    line.world.run(30.0)
    assert not line.events(0, Lost)
    line.world.run(11.0)
    assert line.events(0, Lost) == [Lost(Loss.SILENCE)]


def test_doubt_that_is_answered_changes_nothing(line) -> None:
    line.do(0, lambda connection, now: connection.doubt(now))
    line.world.run(10.0)
    assert not line.events(0, Lost)


def test_doubt_that_is_not_answered_ends_the_line(line) -> None:
    line.open = False
    line.do(0, lambda connection, now: connection.doubt(now))
    line.world.run(DOUBT_SECONDS - 0.1)
    assert not line.events(0, Lost)
    line.world.run(0.2)
    assert line.events(0, Lost) == [Lost(Loss.HUNG_UP)]


def test_farewell_that_is_lost_is_repeated_to_an_end_that_talks(line) -> None:
    line.open = False
    line.do(0, lambda connection, now: connection.close("bye", now))
    line.world.run(0.1)
    line.open = True
    line.send(1, b"are you there")
    line.world.run(0.1)
    (closed,) = line.events(1, Closed)
    assert (closed.reason, closed.by_peer) == ("bye", True)


def test_datagrams_of_strangers_are_dropped(line) -> None:
    stranger = Datagram(Address("6.6.6.6", 1), HOSTS[0], b"\x40" * 60)
    for payload in (b"", b"\x40", b"\xc0" * 1200):
        line.do(
            0,
            lambda connection, now, payload=payload: connection.receive(
                Datagram(HOSTS[1], HOSTS[0], payload), now
            ),
        )
    line.do(0, lambda connection, now: connection.receive(stranger, now))
    line.send(0, b"goes on")
    line.world.run(0.1)
    assert line.received(1) == [b"goes on"]
