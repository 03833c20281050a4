"""STUN servers asked from sockets of one's own, for commands that need no profile."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

from knothole.cli.output import Failure, WrongUsage
from knothole.engine.core import Datagram, Engine
from knothole.engine.endpoint.discovery import SAMPLES, fresh_ports
from knothole.engine.stun.behaviour import NatBehaviour
from knothole.engine.stun.classic import ClassicDiscovery, ClassicLearned
from knothole.engine.stun.levels import nat_levels
from knothole.engine.stun.lifetime import IDLE_SECONDS, LifetimeLearned, LifetimeMeasurement
from knothole.engine.stun.survey import ROLES, BehaviourLearned, Survey
from knothole.io.driver import Driver
from knothole.io.hops import first_routers
from knothole.io.udp import UdpLink, open_udp
from knothole.wire.address import Address, parse_address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.nat import NatReport
from knothole.wire.turn_uri import parse_server_uri

STUN_PORT: Final = 3478  # RFC 8489 Section 18.6
T = TypeVar("T")


class Way(NamedTuple):
    """Our address towards a server, and the server's."""

    host: str
    server: Address


async def find_server(text: str) -> list[Way]:
    """The ways to ``HOST[:PORT]``, with or without ``stun:``: one of each family, IPv4 first.

    Raises WrongUsage, and Failure when there is none.
    """
    try:
        uri = parse_server_uri(f"stun:{text.removeprefix('stun:')}")
    except MalformedMessage as error:
        raise WrongUsage(f"{text!r} is no STUN server: HOST or HOST:PORT, please.") from error
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(uri.host, uri.port or STUN_PORT, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:  # the latter for labels that no name can have
        why = getattr(error, "strerror", None) or error
        raise Failure(f"{uri.host} has no address: {why}") from error
    ways: dict[bool, Way] = {}
    for family, _, _, _, place in found:
        server = parse_address(str(place[0]), int(place[1]))
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as towards:
            towards.connect(place)  # nothing is sent
            ways.setdefault(server.is_ipv6, Way(str(towards.getsockname()[0]), server))
    if not ways:
        raise Failure(f"There is no way from here to {uri.host}.")
    return [ways[is_ipv6] for is_ipv6 in sorted(ways)]


async def facts(ways: Sequence[Way]) -> tuple[NatBehaviour, NatReport]:
    """What stands between us and a server, and what a peer would be told of it."""
    surveys = [await survey(host, [server]) for host, server in ways]
    ipv6 = next((each.filtering for each in surveys if each.base.is_ipv6), None)
    return surveys[0], surveys[0].report(ipv6)


async def survey(host: str, servers: Sequence[Address]) -> NatBehaviour:
    """What stands between new sockets on ``host`` and ``servers``; takes 3 s at most."""
    return await _run(
        host,
        ROLES + SAMPLES,
        lambda bases, now: Survey(bases, servers, random=secrets.token_bytes, now=now),
        lambda output: (
            output.behaviour if isinstance(output, BehaviourLearned) and output.final else None
        ),
    )


async def lifetime(host: str, server: Address) -> float | None:
    """How long an idle mapping was seen to live, in seconds; takes up to five minutes."""
    learned = await _run(
        host,
        1 + len(IDLE_SECONDS),
        lambda bases, now: LifetimeMeasurement(
            bases[0], bases[1:], server, random=secrets.token_bytes, now=now
        ),
        lambda output: output if isinstance(output, LifetimeLearned) and output.final else None,
    )
    return learned.seconds


async def levels(host: str, server: Address) -> tuple[int | None, Sequence[str | None]]:
    """How many NATs are in a row, and the first routers on the way, which tell it."""
    if server.is_ipv6:
        return None, ()
    routers = await first_routers(host, server)
    return nat_levels(host, routers), routers


async def classic(host: str, server: Address) -> ClassicLearned:
    """RFC 3489's verdict on what stands between a new socket on ``host`` and ``server``."""
    return await _run(
        host,
        1,
        lambda bases, now: ClassicDiscovery(bases[0], server, random=secrets.token_bytes, now=now),
        lambda output: output if isinstance(output, ClassicLearned) else None,
    )


async def _run(
    host: str,
    count: int,
    make: Callable[[Sequence[Address], float], Engine[object]],
    result: Callable[[object], T | None],
) -> T:
    """Run one engine on ``count`` fresh sockets until it gives a result."""
    ended: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    driver: Driver[object] | None = None
    links: list[UdpLink] = []

    def handle(output: object) -> None:
        found = result(output)
        if found is not None and not ended.done():
            ended.set_result(found)

    def receive(datagrams: Sequence[Datagram]) -> None:
        if driver is not None:
            driver.receive(datagrams)

    try:
        for port in fresh_ports(count, secrets.token_bytes):
            link = await _open(host, port, receive)
            links.append(link)
        engine = make([link.address for link in links], time.monotonic())
        driver = Driver(engine, handle)
        for link in links:
            driver.attach(link, link.address)
        driver.wake()
        return await ended
    finally:
        if driver is not None:
            driver.close()
        for link in links:
            link.close()


async def _open(host: str, port: int, receive: Callable[[Sequence[Datagram]], None]) -> UdpLink:
    try:
        return await open_udp(Address(host, port), receive)
    except OSError:
        try:
            return await open_udp(Address(host, 0), receive)
        except OSError as error:
            raise Failure(f"No UDP socket at {host}: {error.strerror}.") from error
