"""Many TURN clients on one socket: allocations made as fast as the server answers."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from knothole.engine.turn.challenge import ChallengeResponder
from knothole.engine.turn.credentials import Credentials, rest_credentials
from knothole.engine.turn.quota import DEFAULT_LIFETIME
from knothole.lab.bench.batch_socket import BatchSocket, Shot
from knothole.wire.address import Address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    Attribute,
    ChannelNumber,
    ErrorCode,
    Lifetime,
    Message,
    MessageClass,
    Method,
    RequestedTransport,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
)

SECRET: Final = "a secret of the benchmark"  # noqa: S105 - it protects nothing
REALM: Final = "bench.test"
CHANNEL: Final = 0x4000
IN_FLIGHT: Final = 16  # ours: the server always has something to do, and never a full buffer
REPEAT_SECONDS: Final = 0.5
PATIENCE_SECONDS: Final = 60.0


class BenchClient:
    """One allocation at ``server``, with a channel to ``peer`` if there is one."""

    def __init__(self, host: str, server: Address, peer: Address | None, name: str) -> None:
        self.host = host
        self.relayed: Address | None = None
        self.is_ready = False
        self.asked_at = 0.0
        self._server, self._peer = server, peer
        self._responder = ChallengeResponder(bench_credentials(name))
        self._transaction_id = b""
        self._refreshes = False

    def want_channel(self, peer: Address) -> None:
        """Not ready until it has one to ``peer``."""
        self._peer, self.is_ready = peer, False

    def want_refresh(self) -> None:
        """Not ready until its allocation is refreshed."""
        self._refreshes, self.is_ready = True, False

    def ask(self, now: float) -> Shot:
        """The next request, or the last one again."""
        self.asked_at = now
        attributes: tuple[Attribute, ...] = (RequestedTransport(),)
        method = Method.ALLOCATE
        if self._refreshes:
            method = Method.REFRESH
            attributes = (Lifetime(DEFAULT_LIFETIME),)
        elif self.relayed is not None and self._peer is not None:
            method = Method.CHANNEL_BIND
            attributes = (ChannelNumber(CHANNEL), XorPeerAddress(self._peer))
        if not self._transaction_id:
            self._transaction_id = secrets.token_bytes(TRANSACTION_ID_SIZE)
        request, _ = self._responder.request(method, self._transaction_id, attributes)
        return Shot(self.host, self._server, request)

    def hear(self, answer: Message) -> bool:
        """Whether this was the answer. Raises RuntimeError for a refusal."""
        if answer.transaction_id != self._transaction_id:
            return False
        self._transaction_id = b""
        error = answer.get(ErrorCode)
        if answer.message_class == MessageClass.ERROR and error is not None:
            if error.code not in (401, 438):
                raise RuntimeError(f"the server refuses: {error.code} {error.reason}")
            self._responder.learn(answer)
        elif self.relayed is None:
            relayed = answer.get(XorRelayedAddress)
            assert relayed is not None
            self.relayed = relayed.address
            self.is_ready = self._peer is None
        else:
            self._refreshes, self.is_ready = False, True
        return True


def bench_credentials(name: str) -> Credentials:
    """What the servers of the benchmarks take."""
    return rest_credentials(SECRET, name, 3600, time.time())


def open_allocations(socket: BatchSocket, clients: Sequence[BenchClient]) -> None:
    """Return when all are ready. Raises RuntimeError when one is refused, or nothing answers."""
    socket.tell_hosts(True)
    waiting, asking = deque(clients), dict[str, BenchClient]()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while waiting or asking:
        now = time.monotonic()
        if now > deadline:
            raise RuntimeError(f"{len(waiting) + len(asking)} allocations have not come about")
        while waiting and len(asking) < IN_FLIGHT:
            client = waiting.popleft()
            asking[client.host] = client
            socket.send_one(client.ask(now))
        if not socket.wait(REPEAT_SECONDS):
            for client in asking.values():
                if now - client.asked_at >= REPEAT_SECONDS:
                    socket.send_one(client.ask(now))
        while (came := socket.receive_one()) is not None:
            payload, host = came
            heard = asking.get(host)
            try:
                answer = decode(payload)
            except MalformedMessage:
                continue  # payload of the relay that stood here before
            if heard is None or not heard.hear(answer):
                continue
            if heard.is_ready:
                del asking[host]
            else:
                socket.send_one(heard.ask(now))
    socket.tell_hosts(False)
