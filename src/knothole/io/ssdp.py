"""Searching the local network for a gateway's UPnP description, and believing only the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from knothole.engine.core import Datagram
from knothole.io.udp import open_udp
from knothole.wire.address import Address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.portmap.ssdp import GATEWAYS, MULTICAST, decode_answer, encode_search

SEARCHES: Final = 3  # UDA 1.1 Section 1.3.2: sent more than once, UDP being unreliable
SEARCH_SECONDS: Final = 1.0  # MX is 1: an answer comes within a second


async def find_description(host: str, gateway: str) -> str | None:
    """The URL of the description of the UPnP device that is ``gateway``, or None.

    Asked from the local address ``host``, by multicast and of the gateway itself. Answers from any
    other address, and URLs on any other address, are passed over. Raises OSError when no socket
    can be bound.
    """
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def receive(datagrams: Sequence[Datagram]) -> None:
        for datagram in datagrams:
            if datagram.source.host == gateway and not found.done():
                try:
                    answer = decode_answer(datagram.payload)
                except MalformedMessage:
                    continue
                if answer.target in GATEWAYS and is_on(answer.location, gateway):
                    found.set_result(answer.location)

    link = await open_udp(Address(host, 0), receive)
    try:
        for _ in range(SEARCHES):
            for to in (MULTICAST, Address(gateway, MULTICAST.port)):
                payload = encode_search(GATEWAYS[0], to)
                link.send(Datagram(link.address, to, payload))
            done, _pending = await asyncio.wait([found], timeout=SEARCH_SECONDS)
            if done:
                return found.result()
        return None
    finally:
        link.close()


def is_on(url: str, gateway: str) -> bool:
    """Whether a URL leads to the gateway itself, by its IP address and plain HTTP."""
    try:
        parts = urlsplit(url)
        return (
            parts.scheme == "http"
            and parts.hostname == gateway
            and parts.port != 0
            and not parts.username
            and not parts.password
        )
    except ValueError:
        return False
