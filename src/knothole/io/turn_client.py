"""A client of one TURN server, over whatever its URI says: UDP, TCP, TLS or DTLS."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from knothole.engine.core import Datagram
from knothole.engine.turn.answer import REASONS
from knothole.engine.turn.client import (
    Allocated,
    Allocation,
    AllocationClosed,
    AllocationFailed,
    AllocationLost,
    Credentials,
    PeerRefused,
    RelayedDataReceived,
)
from knothole.io.driver import Driver
from knothole.io.turn_dtls import TurnDtls
from knothole.io.turn_stream import TurnStream
from knothole.io.udp import UdpLink, open_udp
from knothole.wire.address import Address, Transport, parse_address
from knothole.wire.turn_uri import ServerUri

CLOSE_SECONDS: Final = 2.0  # ours: for the server to say that it has forgotten the allocation


class TurnFailed(Exception):
    """The server cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom TLS and DTLS believe: the key with hash ``pin``, anybody, or who can prove the name."""

    pin: bytes | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class TurnPlace:
    """A TURN server with its address found."""

    uri: ServerUri
    address: Address
    local_host: str
    """Our address towards it."""


async def find_turn_server(uri: ServerUri) -> TurnPlace:
    """The first address of ``uri`` that there is a way to. Raises TurnFailed."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(uri.host, uri.port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:  # the latter for labels that no name can have
        why = getattr(error, "strerror", None) or error
        raise TurnFailed(f"{uri.host} has no address: {why}") from error
    for family, _, _, _, place in found:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as towards:
                towards.connect(place)  # nothing is sent
                here = str(towards.getsockname()[0])
        except OSError:
            continue
        return TurnPlace(uri, parse_address(str(place[0]), int(place[1])), here)
    raise TurnFailed(f"there is no way from here to {uri.host}")


class TurnClient:
    """One allocation. ``on_data`` gets each payload that comes, with the peer that it is from.

    ``connect_seconds`` is how long the way to the server took to open (0 for UDP),
    ``allocate_seconds`` how long the allocation took from there.
    """

    def __init__(
        self,
        place: TurnPlace,
        credentials: Credentials,
        trust: Trust,
        on_data: Callable[[Address, bytes], None] = lambda *_: None,
    ) -> None:
        self.connect_seconds = self.allocate_seconds = 0.0
        self.on_data = on_data
        self.lost = ""
        """Why there is no allocation any more."""
        self._place, self._credentials, self._trust = place, credentials, trust
        self._transport = place.uri.transport
        self._link: UdpLink | TurnStream | TurnDtls | None = None
        self._driver: Driver[object] | None = None
        self._allocation: Allocation | None = None
        self._refused: dict[Address, str] = {}
        loop = asyncio.get_running_loop()
        self._allocated: asyncio.Future[Allocated] = loop.create_future()
        self._closed = asyncio.Event()

    @property
    def relayed(self) -> Address:
        """The relayed address; once :meth:`open` has returned."""
        assert self._allocation is not None and self._allocation.relayed_address is not None
        return self._allocation.relayed_address

    async def open(self) -> Allocated:
        """Connect and allocate. Raises TurnFailed."""
        begun = time.monotonic()
        try:
            local = await self._connect()
        except (OSError, TimeoutError) as error:
            raise TurnFailed(self._why(error)) from error
        connected = time.monotonic()
        self.connect_seconds = connected - begun
        self._allocation = Allocation(
            local=local,
            server=self._place.address,
            transport=self._transport,
            credentials=self._credentials,
            random=secrets.token_bytes,
            now=connected,
        )
        self._driver = Driver(self._allocation, self._handle)
        assert self._link is not None
        self._driver.attach(self._link, local, self._transport)
        self._driver.wake()
        allocated = await self._allocated
        self.allocate_seconds = time.monotonic() - connected
        return allocated

    def reach(self, peer: Address) -> None:
        """Have a channel stand for ``peer``, and let it send to us."""
        if self._driver is not None and self._allocation is not None:
            allocation = self._allocation
            self._driver.command(lambda now: allocation.bind_channel(peer, now))

    def send(self, peer: Address, payload: bytes) -> None:
        """Have ``payload`` relayed to ``peer``."""
        if self._driver is not None and self._allocation is not None:
            allocation = self._allocation
            self._driver.command(lambda now: allocation.send(peer, payload, 0, now))

    def refusal(self, peer: Address) -> str:
        """Why the server does not relay to ``peer``, "" as far as it does."""
        return self.lost or self._refused.get(peer, "")

    async def close(self) -> None:
        """Give the allocation back; idempotent."""
        if self._driver is not None and self._allocation is not None and not self.lost:
            self._driver.command(self._allocation.close)
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._closed.wait()
            except TimeoutError:
                pass  # it will expire
        if self._driver is not None:
            self._driver.close()
        if self._link is not None:
            self._link.close()
        self._driver = self._link = None
        if not self._allocated.done():
            self._allocated.cancel()
        await asyncio.sleep(0)  # a turn for what was closed to be let go

    async def _connect(self) -> Address:
        uri, server, trust = self._place.uri, self._place.address, self._trust
        match self._transport:
            case Transport.UDP:
                self._link = await open_udp(Address(self._place.local_host, 0), self._receive)
                return self._link.address
            case Transport.DTLS:
                dtls = self._link = TurnDtls(server, self._receive_one, self._disconnected)
                await dtls.open(server_name=uri.host, pin=trust.pin, insecure=trust.insecure)
                return dtls.local
            case _:
                stream = self._link = TurnStream(
                    server, self._transport, self._receive_one, self._disconnected
                )
                await stream.open(server_name=uri.host, pin=trust.pin, insecure=trust.insecure)
                return stream.local

    def _why(self, error: Exception) -> str:
        where = f"{self._place.address} over {self._transport.value.upper()}"
        if isinstance(error, TimeoutError):
            return f"{where}: no answer"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{where}: its certificate is not believed: {error.verify_message}"
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return f"{where}: {words}"

    def _receive(self, datagrams: Sequence[Datagram]) -> None:
        if self._driver is not None:
            self._driver.receive(datagrams)

    def _receive_one(self, datagram: Datagram) -> None:
        self._receive((datagram,))

    def _disconnected(self, _: object) -> None:
        if self._driver is not None and self._allocation is not None:
            self._driver.command(self._allocation.disconnected)

    def _handle(self, output: object) -> None:
        match output:
            case RelayedDataReceived(datagram):
                for payload in datagram.segments():
                    self.on_data(datagram.source, payload)
            case Allocated() if not self._allocated.done():
                self._allocated.set_result(output)
            case AllocationFailed(code, reason) if not self._allocated.done():
                self._fail(code, reason, output.alternate_server)
            case AllocationLost(_, reason):
                self.lost = reason
            case PeerRefused(peer, code, reason):
                self._refused[peer] = f"{code} {reason}"
            case AllocationClosed():
                self._closed.set()

    def _fail(self, code: int | None, reason: str, alternate: Address | None) -> None:
        words = reason if code is None else f"{code} {reason or REASONS.get(code, '')}".strip()
        if alternate is not None:
            words += f": it sends us to {alternate}"
        self.lost = words
        self._allocated.set_exception(TurnFailed(f"no allocation: {words}"))
