"""Somebody who uses a relay as it is meant: two allocations that send each other numbers.

As a program, ``python -m knothole.lab.relay_user``, it takes one line of JSON from its input:
``server`` ["HOST", PORT], ``username``, ``password``, ``transports`` ["udp", ...], so many
``pairs`` of each, which exchange a number ``every_seconds``. It says in lines of JSON how it fares,
until its input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from knothole.engine.turn.client import (
    Allocated,
    Allocation,
    AllocationFailed,
    AllocationLost,
    AllocationOutput,
    RelayedDataReceived,
)
from knothole.engine.turn.credentials import Credentials
from knothole.io.driver import Driver
from knothole.io.turn_dtls import TurnDtls
from knothole.io.turn_stream import TurnStream
from knothole.io.udp import UdpLink, open_udp
from knothole.wire.address import Address, Transport

PATIENCE: Final = 40.0  # ours: for what takes a round trip, on a machine that does much else
REPORT_SECONDS: Final = 5.0
AGAIN_SECONDS: Final = 0.5  # ours: a number that was lost is sent again


class RelayUser:
    """One allocation. ``trouble`` says what became of it that should not have."""

    def __init__(self, server: Address, transport: Transport, credentials: Credentials) -> None:
        self.trouble: list[str] = []
        self.received: set[bytes] = set()
        self._server, self._transport, self._credentials = server, transport, credentials
        self._link: UdpLink | TurnStream | TurnDtls | None = None
        self._driver: Driver[AllocationOutput] | None = None
        self._allocation: Allocation | None = None
        self._allocated = asyncio.Event()
        self._changed = asyncio.Event()
        self._closing = False

    @property
    def relayed(self) -> Address:
        assert self._allocation is not None and self._allocation.relayed_address is not None
        return self._allocation.relayed_address

    async def open(self) -> None:
        """Get the allocation. Raises OSError, TimeoutError."""
        local, link = await self._connect()
        self._link = link
        self._allocation = Allocation(
            local=local,
            server=self._server,
            transport=self._transport,
            credentials=self._credentials,
            random=secrets.token_bytes,
            now=time.monotonic(),
        )
        self._driver = Driver(self._allocation, self._event)
        self._driver.attach(link, local, self._transport, None)
        self._driver.wake()
        async with asyncio.timeout(PATIENCE):
            await self._allocated.wait()
        if self.trouble:
            raise OSError(self.trouble[0])

    def bind(self, peer: Address) -> None:
        """Have a channel to ``peer``."""
        assert self._driver is not None and self._allocation is not None
        allocation = self._allocation
        self._driver.command(lambda now: allocation.bind_channel(peer, now))

    def send(self, peer: Address, payload: bytes) -> None:
        assert self._driver is not None and self._allocation is not None
        allocation = self._allocation
        self._driver.command(lambda now: allocation.send(peer, payload, 0, now))

    async def hears(self, payload: bytes, seconds: float) -> bool:
        """Whether ``payload`` has come or comes within that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while payload not in self.received:
                    self._changed.clear()
                    await self._changed.wait()
        return payload in self.received

    async def close(self) -> None:
        """Delete the allocation, as far as one request does that."""
        self._closing = True
        if self._driver is not None and self._allocation is not None:
            self._driver.command(self._allocation.close)
            await asyncio.sleep(0.05)
            self._driver.close()
        if self._link is not None:
            self._link.close()
        await asyncio.sleep(0)

    async def _connect(self) -> tuple[Address, UdpLink | TurnStream | TurnDtls]:
        if self._transport is Transport.UDP:
            udp = await open_udp(
                Address(_local_host(self._server), 0), lambda data: self._hand_over(data)
            )
            return udp.address, udp
        kind = TurnDtls if self._transport is Transport.DTLS else TurnStream
        if kind is TurnDtls:
            link: TurnStream | TurnDtls = TurnDtls(
                self._server, lambda each: self._hand_over([each]), lambda _: self._cut_off()
            )
        else:
            link = TurnStream(
                self._server,
                self._transport,
                lambda each: self._hand_over([each]),
                lambda _: self._cut_off(),
            )
        await link.open(server_name="", pin=None, insecure=True)
        return link.local, link

    def _hand_over(self, datagrams: Sequence[Any]) -> None:
        if self._driver is not None:
            self._driver.receive(datagrams)

    def _cut_off(self) -> None:
        if not self._closing:
            self._say("the connection was closed")

    def _event(self, event: AllocationOutput) -> None:
        match event:
            case Allocated():
                self._allocated.set()
            case AllocationFailed(code, reason) | AllocationLost(code, reason):
                if not self._closing:
                    self._say(f"{code} {reason}")
            case RelayedDataReceived(datagram):
                self.received.update(datagram.segments())
                self._changed.set()
            case _:
                pass

    def _say(self, trouble: str) -> None:
        self.trouble.append(f"{self._transport.value}: {trouble}")
        self._allocated.set()


class Pair:
    """Two users who send each other numbers through the relay."""

    def __init__(self, server: Address, transport: Transport, credentials: Credentials) -> None:
        self.users = tuple(RelayUser(server, transport, credentials) for _ in range(2))
        self.rounds = 0

    @property
    def trouble(self) -> list[str]:
        return [each for user in self.users for each in user.trouble]

    async def open(self) -> None:
        for user in self.users:
            await user.open()
        for user, other in zip(self.users, reversed(self.users), strict=True):
            user.bind(other.relayed)

    async def exchange(self, seconds: float = PATIENCE) -> bool:
        """Whether a number gets through in each direction, lost ones being sent again."""
        self.rounds += 1
        number = b"%d" % self.rounds
        deadline = time.monotonic() + seconds
        for user in self.users:
            user.received.clear()
        # Both send: a router that was restarted lets nothing in to who has not sent anything since.
        while not all(number in user.received for user in self.users):
            if time.monotonic() > deadline or self.trouble:
                return False
            for user, other in zip(self.users, reversed(self.users), strict=True):
                user.send(other.relayed, number)
            for user in self.users:
                await user.hears(number, AGAIN_SECONDS)
        return True

    async def close(self) -> None:
        for user in self.users:
            await user.close()


def _local_host(server: Address) -> str:
    family = socket.AF_INET6 if server.is_ipv6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(tuple(server))
        return str(sock.getsockname()[0])


async def _serve(order: dict[str, Any]) -> None:
    credentials = Credentials(order["username"], order["password"])
    server = Address(*order["server"])
    pairs = [
        Pair(server, Transport(word), credentials)
        for word in order["transports"]
        for _ in range(order["pairs"])
    ]
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        for pair in pairs:
            await pair.open()
        say("ready", allocations=2 * len(pairs))
        ended = asyncio.create_task(reader.read())
        missed, reported_at = 0, time.monotonic()
        while not ended.done():
            for pair in pairs:
                if not ended.done() and not await pair.exchange():
                    missed += 1
            if time.monotonic() - reported_at >= REPORT_SECONDS:
                reported_at = time.monotonic()
                lost = [each for pair in pairs for each in pair.trouble]
                say("report", rounds=sum(pair.rounds for pair in pairs), missed=missed, lost=lost)
            await asyncio.wait([ended], timeout=order["every_seconds"])
    except (OSError, TimeoutError) as error:
        say("error", text=str(error) or "no answer from the relay")
    finally:
        for pair in pairs:
            await pair.close()
    lost = [each for pair in pairs for each in pair.trouble]
    say("end", rounds=sum(pair.rounds for pair in pairs), missed=missed, lost=lost)


def say(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.stdin.buffer.readline())))
