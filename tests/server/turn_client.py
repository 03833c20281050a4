"""A TURN client on a real socket, our own engine in it, and what it says."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

from knothole.engine.turn.client import Allocated, Allocation, AllocationFailed
from knothole.engine.turn.credentials import Credentials
from knothole.io.driver import Driver
from knothole.io.turn_dtls import TurnDtls
from knothole.io.turn_stream import TurnStream
from knothole.io.udp import open_udp
from knothole.wire.address import Address, Transport

HOST = "127.0.0.1"


class TurnClient:
    """One allocation on a real socket, and what it says."""

    def __init__(self) -> None:
        self.events: list[object] = []

    async def open(
        self,
        port: int,
        transport: Transport,
        credentials: Credentials,
        pin: bytes | None = None,
    ) -> None:
        server = Address(HOST, port)
        if transport is Transport.UDP:
            self.link = await open_udp(Address(HOST, 0), lambda data: self.driver.receive(data))
            local = self.link.address
        elif transport is Transport.DTLS:
            self.link = TurnDtls(server, lambda each: self.driver.receive([each]), lambda _: None)
            await self.link.open(server_name="", pin=pin, insecure=pin is None)
            local = self.link.local
        else:
            self.link = TurnStream(
                server, transport, lambda each: self.driver.receive([each]), lambda _: None
            )
            await self.link.open(server_name="", pin=pin, insecure=pin is None)
            local = self.link.local
        self.allocation = Allocation(
            local=local,
            server=server,
            transport=transport,
            credentials=credentials,
            random=secrets.token_bytes,
            now=time.monotonic(),
        )
        self.driver: Driver[object] = Driver(self.allocation, self.events.append)
        self.driver.attach(self.link, local, transport, None)
        self.driver.wake()
        self.local = local

    def said(self, kind: type) -> list[object]:
        return [event for event in self.events if isinstance(event, kind)]

    async def is_relayed(self, until: Callable) -> bool:
        """Whether it gets an allocation; else it was refused."""
        await until(lambda: bool(self.said(Allocated) or self.said(AllocationFailed)))
        return bool(self.said(Allocated))

    def permit(self, peer: Address) -> None:
        self.driver.command(lambda now: self.allocation.permit(peer, now))

    async def close(self) -> None:
        self.driver.command(self.allocation.close)
        await asyncio.sleep(0.02)
        self.driver.close()
        self.link.close()
        await asyncio.sleep(0)
