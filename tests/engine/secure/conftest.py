"""Two channels on a line in virtual time, with a strict driver and a line that may lie."""

from __future__ import annotations

import heapq
import itertools
import random as random_module
from collections.abc import Callable, Sequence

import pytest

from knothole.engine.secure.certificate import ChannelCertificate
from knothole.engine.secure.events import ChannelEvent, StreamData
from knothole.engine.secure.identity import Identity
from knothole.engine.secure.quic import SecureChannel
from knothole.engine.secure.words import words_commitment

Line = Callable[[bool, bytes], Sequence[tuple[float, bytes]]]
"""What becomes of a datagram (True: towards the server): (extra delay in seconds, bytes) each."""

_SEED = random_module.Random(5)
ALICE = Identity.generate(_SEED.randbytes)
BOB = Identity.generate(_SEED.randbytes)
MALLORY = Identity.generate(_SEED.randbytes)
ALICE_NONCE = _SEED.randbytes(32)
BOB_NONCE = _SEED.randbytes(32)


def honest(_to_server: bool, datagram: bytes) -> Sequence[tuple[float, bytes]]:
    return [(0.0, datagram)]


class Pair:
    """Alice's channel and Bob's; the first flights travel by signalling, all else by ``line``."""

    def __init__(
        self,
        *,
        line: Line = honest,
        delay: float = 0.02,
        answer_after: float = 0.0,
        expected_key: bytes = BOB.public_key,
        commitment: bytes | None = None,
        client_key: bytes = ALICE.public_key,
        certificate: ChannelCertificate | None = None,
        server: Identity = BOB,
        client: Identity = ALICE,
        early: Callable[[SecureChannel], None] = lambda server: None,
        expect: bool = True,
    ) -> None:
        self.now = 100.0
        self.line = line
        self.delay = delay
        self.expected_key = expected_key
        self.reading = True
        self.events: dict[str, list[tuple[float, ChannelEvent]]] = {"client": [], "server": []}
        self.unread: list[tuple[SecureChannel, int, int]] = []
        self._flights: list[tuple[float, int, SecureChannel, bytes]] = []
        self._order = itertools.count()
        self.client = SecureChannel.client(client, ALICE_NONCE, self.now)
        self.now += delay
        self.server = SecureChannel.server(
            server,
            client_key,
            self.client.first_flight,
            words_commitment(ALICE_NONCE) if commitment is None else commitment,
            BOB_NONCE,
            self.now,
            certificate,
        )
        self.now += answer_after
        early(self.server)
        answer = self._take_all(self.server)
        self.now += delay
        if expect:
            self.client.expect_server(expected_key, BOB_NONCE, self.now)
        for datagram in answer:
            self.client.receive(datagram, 0, self.now)
        self.settle()

    @property
    def ends(self) -> tuple[SecureChannel, SecureChannel]:
        return self.client, self.server

    def run(self, seconds: float) -> None:
        """Let time pass: deliver, wake who asked, drain."""
        until = self.now + seconds
        self.settle()
        while (at := self._next()) is not None and at <= until:
            self.now = max(self.now, at)
            while self._flights and self._flights[0][0] <= self.now:
                _, _, end, datagram = heapq.heappop(self._flights)
                end.receive(datagram, 0, self.now)
                self.settle()
            for end in self.ends:
                due = end.next_timeout()
                if due is not None and due <= self.now:
                    end.handle_timeout(self.now)
                    self.settle()
                    after = end.next_timeout()
                    assert after is None or after > self.now, "the channel spins"
        self.now = until

    @property
    def wakes_at(self) -> float:
        """When something happens next."""
        return self.now + 60.0 if (at := self._next()) is None else at

    def settle(self) -> None:
        """Drain both ends."""
        for end in self.ends:
            for datagram in self._take_all(end):
                self.send(end is self.client, datagram)
            for event in end.outputs():
                self._record(end, event)

    def send(self, to_server: bool, datagram: bytes) -> None:
        """Put a datagram on the line."""
        receiver = self.server if to_server else self.client
        for extra, data in self.line(to_server, datagram):
            at = self.now + self.delay + extra
            heapq.heappush(self._flights, (at, next(self._order), receiver, data))

    def read_all(self) -> None:
        """The application reads what has waited."""
        for end, stream_id, size in self.unread:
            end.consumed(stream_id, size)
        self.unread.clear()
        self.settle()

    def got(self, end: str, kind: type) -> list:
        return [event for _, event in self.events[end] if isinstance(event, kind)]

    def received(self, end: str, stream_id: int) -> bytes:
        return b"".join(
            event.data for event in self.got(end, StreamData) if event.stream_id == stream_id
        )

    def ended(self, end: str, stream_id: int) -> bool:
        return any(event.end for event in self.got(end, StreamData) if event.stream_id == stream_id)

    def _record(self, end: SecureChannel, event: ChannelEvent) -> None:
        self.events["client" if end is self.client else "server"].append((self.now, event))
        if isinstance(event, StreamData):
            if self.reading:
                end.consumed(event.stream_id, len(event.data))
            else:
                self.unread.append((end, event.stream_id, len(event.data)))

    def _take_all(self, end: SecureChannel) -> list[bytes]:
        taken: list[bytes] = []
        while burst := end.datagrams(self.now):
            taken += burst
        return taken

    def _next(self) -> float | None:
        moments = [self._flights[0][0]] if self._flights else []
        moments += [at for end in self.ends if (at := end.next_timeout()) is not None]
        return min(moments, default=None)


def lossy(seed: int, loss: float, reorder: float = 0.0) -> Line:
    """A line that loses so many, and delays so many by up to 30 ms more."""
    chance = random_module.Random(seed)

    def line(_to_server: bool, datagram: bytes) -> Sequence[tuple[float, bytes]]:
        if chance.random() < loss:
            return []
        return [(chance.uniform(0.0, 0.03) if chance.random() < reorder else 0.0, datagram)]

    return line


@pytest.fixture
def pair() -> type[Pair]:
    return Pair


@pytest.fixture
def lossy_line() -> Callable[..., Line]:
    return lossy


@pytest.fixture
def people() -> dict[str, Identity]:
    return {"alice": ALICE, "bob": BOB, "mallory": MALLORY}
