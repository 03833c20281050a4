"""UPnP: whom is believed, what is asked again, and what a hostile description can lead to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from async_upnp_client.const import HttpRequest
from async_upnp_client.exceptions import UpnpError

from knothole.engine.portmap.mapping import Progress
from knothole.io import upnp
from knothole.io.announcements import Announcements
from knothole.io.ssdp import find_description, is_on
from knothole.io.upnp import CONFLICT, ONLY_PERMANENT, Igd, UpnpMapper
from knothole.io.upnp_http import LARGEST_BODY, MOST_DESCRIPTIONS, GatewayRequester
from knothole.wire.address import Address
from knothole.wire.portmap import ssdp

BASE = Address("192.168.1.10", 5000)
GATEWAY = "192.168.1.1"


class FakeIgd:
    """A gateway that does what it is told to."""

    def __init__(self) -> None:
        self.host = "1.1.1.1"
        self.errors: list[int | None] = []
        self.added: list[tuple[int, int]] = []
        self.deleted: list[int] = []
        self.ours: set[int] = set()
        self.closed = 0

    async def external_host(self) -> str:
        return self.host

    async def add(self, base: Address, port: int, lease_seconds: int) -> int | None:
        assert base == BASE
        self.added.append((port, lease_seconds))
        return self.errors.pop(0) if self.errors else None

    async def leads_to(self, base: Address, port: int) -> bool:
        return port in self.ours

    async def delete(self, port: int) -> None:
        self.deleted.append(port)

    async def close(self) -> None:
        self.closed += 1


class Kept:
    """A mapper for a fake gateway; :meth:`until` waits for a state."""

    def __init__(self, igd: Igd | None) -> None:
        self.igd = igd
        self.searches = 0
        self._news = asyncio.Event()
        self.mapper = UpnpMapper(
            BASE, GATEWAY, self._news.set, find=self._find, begin_after_seconds=0
        )

    async def _find(self, host: str, gateway: str) -> Igd | None:
        assert (host, gateway) == (BASE.host, GATEWAY)
        self.searches += 1
        return self.igd

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                await self._news.wait()
                self._news.clear()

    async def progress(self, progress: Progress) -> None:
        await self.until(lambda: self.mapper.attempt.progress is progress)


@asynccontextmanager
async def kept(igd: Igd | None) -> AsyncIterator[Kept]:
    one = Kept(igd)
    try:
        yield one
    finally:
        await one.mapper.close()


async def test_a_mapping_is_granted_and_deleted_at_the_end() -> None:
    igd = FakeIgd()
    async with kept(igd) as one:
        await one.progress(Progress.GRANTED)
        assert one.mapper.mapping is not None
        assert one.mapper.mapping.external == Address("1.1.1.1", BASE.port)
        assert one.mapper.mapping.is_public
    assert igd.added == [(BASE.port, upnp.LEASE_SECONDS)]
    assert igd.deleted == [BASE.port]
    assert igd.closed == 1


async def test_leaving_that_is_cancelled_closes_the_session_all_the_same() -> None:
    asked = asyncio.Event()

    class Slow(FakeIgd):
        async def delete(self, port: int) -> None:
            asked.set()
            await asyncio.Future()

    igd = Slow()
    async with kept(igd) as one:
        await one.progress(Progress.GRANTED)
        leaving = asyncio.create_task(one.mapper.close())
        await asked.wait()
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving
        assert igd.closed == 1


async def test_a_port_that_is_taken_makes_it_ask_for_another() -> None:
    igd = FakeIgd()
    igd.errors = [CONFLICT, CONFLICT]
    async with kept(igd) as one:
        await one.progress(Progress.GRANTED)
        assert one.mapper.mapping is not None
        assert one.mapper.mapping.external.port == igd.added[2][0] != BASE.port


async def test_a_port_that_leads_to_us_already_is_as_good() -> None:
    igd = FakeIgd()
    igd.errors, igd.ours = [CONFLICT], {BASE.port}
    async with kept(igd) as one:
        await one.progress(Progress.GRANTED)
        assert one.mapper.mapping is not None
        assert one.mapper.mapping.external.port == BASE.port


async def test_a_gateway_that_knows_only_permanent_leases_gets_one() -> None:
    igd = FakeIgd()
    igd.errors = [ONLY_PERMANENT]
    async with kept(igd) as one:
        await one.progress(Progress.GRANTED)
    assert igd.added == [(BASE.port, upnp.LEASE_SECONDS), (BASE.port, 0)]
    assert igd.deleted == [BASE.port]


async def test_asked_again_it_asks_the_same_port_and_the_address_anew() -> None:
    igd = FakeIgd()
    igd.errors = [CONFLICT]
    async with kept(igd) as one:
        await one.progress(Progress.GRANTED)
        assert one.mapper.mapping is not None
        port = one.mapper.mapping.external.port
        igd.host = "1.1.1.2"
        one.mapper.ask_again()
        await one.until(
            lambda: one.mapper.mapping is not None and one.mapper.mapping.external.host == "1.1.1.2"
        )
        assert one.mapper.mapping.external.port == port
        assert one.searches == 1


async def test_a_refusal_is_told_with_its_number() -> None:
    igd = FakeIgd()
    igd.errors = [606]
    async with kept(igd) as one:
        await one.progress(Progress.REFUSED)
        assert one.mapper.attempt.detail == "error 606"
        assert one.mapper.mapping is None
    assert igd.deleted == []


async def test_no_gateway_is_silence_and_is_searched_again_when_asked() -> None:
    async with kept(None) as one:
        await one.progress(Progress.SILENT)
        one.igd = FakeIgd()
        one.mapper.ask_again()
        await one.progress(Progress.GRANTED)
        assert one.searches == 2


@pytest.mark.parametrize("host", ["", "nonsense", "::1", "1.1.1.1.1"])
async def test_an_external_address_that_is_none_is_no_mapping(host: str) -> None:
    igd = FakeIgd()
    igd.host = host
    async with kept(igd) as one:
        await one.progress(Progress.SILENT)
        assert one.mapper.mapping is None


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "100.64.0.7"])
async def test_an_external_address_that_nobody_can_reach_is_not_public(host: str) -> None:
    igd = FakeIgd()
    igd.host = host
    async with kept(igd) as one:
        await one.progress(Progress.GRANTED)
        assert one.mapper.mapping is not None and not one.mapper.mapping.is_public


# --------------------------------------------------------------------------- whom it believes


@pytest.mark.parametrize(
    ("url", "is_gateways"),
    [
        ("http://192.168.1.1:5000/rootDesc.xml", True),
        ("http://192.168.1.1/d.xml", True),
        ("https://192.168.1.1/d.xml", False),
        ("http://192.168.1.2/d.xml", False),
        ("http://router.local/d.xml", False),
        ("http://192.168.1.1@evil.example/d.xml", False),
        ("http://user:pw@192.168.1.1/d.xml", False),
        ("http://127.0.0.1/d.xml", False),
        ("http://192.168.1.1:99999/", False),
        ("http://[::ffff:192.168.1.1]/", False),
        ("file:///etc/passwd", False),
        ("http://[", False),
    ],
)
def test_only_the_gateways_own_address_over_http_is_asked(url: str, is_gateways: bool) -> None:
    assert is_on(url, GATEWAY) is is_gateways


class Responder:
    """A device that answers searches sent to it, at 127.0.0.1, with these datagrams.

    ``seconds`` is how long each search waits for them.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, *answers: bytes) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.answers = answers
        here = Address("127.0.0.1", self.sock.getsockname()[1])
        monkeypatch.setattr("knothole.io.ssdp.MULTICAST", here)
        monkeypatch.setattr("knothole.io.ssdp.SEARCH_SECONDS", seconds)
        asyncio.get_running_loop().add_reader(self.sock, self._answer)

    def _answer(self) -> None:
        data, source = self.sock.recvfrom(2000)
        assert data.startswith(b"M-SEARCH")
        for answer in self.answers:
            self.sock.sendto(answer, source)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.sock)
        self.sock.close()


def answer(url: str, target: str = ssdp.GATEWAYS[0]) -> bytes:
    return f"HTTP/1.1 200 OK\r\nST: {target}\r\nLOCATION: {url}\r\n\r\n".encode()


async def test_the_gateways_description_is_found_among_lies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    responder = Responder(
        monkeypatch,
        30.0,
        b"nonsense",
        answer("http://192.0.2.1/evil.xml"),
        answer("http://127.0.0.1:80/printer.xml", "urn:schemas-upnp-org:device:Printer:1"),
        answer("http://127.0.0.1:80/igd.xml"),
    )
    try:
        assert await find_description("127.0.0.1", "127.0.0.1") == "http://127.0.0.1:80/igd.xml"
    finally:
        responder.close()


async def test_another_device_that_says_it_is_the_gateway_is_not_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    responder = Responder(monkeypatch, 0.2, answer("http://127.0.0.2/igd.xml"))
    try:
        assert await find_description("127.0.0.1", "127.0.0.2") is None
    finally:
        responder.close()


class WebServer:
    """Answers every request with the same bytes."""

    def __init__(self, response: bytes) -> None:
        self.response = response
        self.requests = 0

    async def __aenter__(self) -> WebServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        writer.write(self.response)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()


def page(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*head, "", ""]).encode() + body


async def ask(server: WebServer, gateway: str = "127.0.0.1") -> tuple[int, str | None]:
    requester = GatewayRequester("127.0.0.1", gateway)
    try:
        response = await requester.async_http_request(HttpRequest("GET", server.url, {}, None))
        return response.status_code, response.body
    finally:
        await requester.close()


async def test_a_page_is_fetched_and_a_redirect_is_not_followed() -> None:
    async with WebServer(page(b"<x/>")) as server:
        assert await ask(server) == (200, "<x/>")
    async with WebServer(page(b"", "Location: http://127.0.0.1:1/", status="302 Found")) as server:
        assert (await ask(server))[0] == 302
        assert server.requests == 1


async def test_a_page_that_is_too_large_is_given_up() -> None:
    async with WebServer(page(b"x" * (LARGEST_BODY + 1))) as server:
        with pytest.raises(UpnpError):
            await ask(server)


async def test_a_page_that_would_unpack_to_more_is_not_unpacked() -> None:
    async with WebServer(page(b"\x1f\x8b", "Content-Encoding: gzip")) as server:
        assert await ask(server) == (200, "\x1f\ufffd")


async def test_no_other_address_is_ever_asked() -> None:
    async with WebServer(page(b"<x/>")) as server:
        with pytest.raises(UpnpError):
            await ask(server, gateway="127.0.0.2")
        assert server.requests == 0


async def test_a_description_that_names_ever_more_is_given_up() -> None:
    async with WebServer(page(b"<x/>")) as server:
        requester = GatewayRequester("127.0.0.1", "127.0.0.1")
        request = HttpRequest("GET", server.url, {}, None)
        try:
            for _ in range(MOST_DESCRIPTIONS):
                await requester.async_http_request(request)
            with pytest.raises(UpnpError):
                await requester.async_http_request(request)
        finally:
            await requester.close()
        assert server.requests == MOST_DESCRIPTIONS


async def test_announcements_are_heard_from_a_gateways_own_port_only() -> None:
    heard: list[tuple[str, bytes]] = []
    came = asyncio.Event()

    def hear(gateway: str, payload: bytes) -> None:
        heard.append((gateway, payload))
        came.set()

    announcements = Announcements(hear)
    senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    try:
        announcements.set_gateways({"127.0.0.3"}, ["127.0.0.1"])
        for sender, source in zip(
            senders, [("127.0.0.2", 5351), ("127.0.0.3", 0), ("127.0.0.3", 5351)], strict=True
        ):
            sender.bind(source)
            sender.sendto(source[0].encode(), ("127.0.0.1", 5350))
        async with asyncio.timeout(30):
            await came.wait()
        assert heard == [("127.0.0.3", b"127.0.0.3")]
    finally:
        announcements.close()
        for sender in senders:
            sender.close()
