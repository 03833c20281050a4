"""HTTP CONNECT proxies: which one is taken, and what is made of what they answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from knothole.io.proxy import (
    MAX_ANSWER,
    InvalidProxy,
    Proxy,
    ProxyRefused,
    connect_request,
    judge,
    open_tunnel,
    parse_proxy,
    proxy_for,
)
from knothole.io.race import first_of
from knothole.io.signalling import ways

PROXY = Proxy("proxy.example", 3128)


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)


# ------------------------------------------------------------------------------ which one


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://proxy.example:3128", "proxy.example", 3128),
        ("proxy.example:3128", "proxy.example", 3128),
        ("http://10.0.0.1", "10.0.0.1", 80),
        ("http://[2a00::1]:8080/", "2a00::1", 8080),
        ("http://alice:se%20cret@proxy.example:3128", "proxy.example", 3128),
    ],
)
def test_a_proxy_is_written_as_a_url(url: str, host: str, port: int) -> None:
    proxy = parse_proxy(url)
    assert (proxy.host, proxy.port) == (host, port)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "http://proxy.example:99999",
        "http://proxy.example:word",
        "https://alice:hush@proxy.example:443",
        "socks5://alice:hush@proxy.example",
        "http://a b",
        "http://proxy.example/path",
        "http://[1::2",
        "http://al%3Aice:hush@proxy.example",
        "http://pröxy.example:1",
        "http://a..b:1",
        "http://" + "a" * 64 + ".example:1",
        "http://proxy.example\r\nX-Evil: 1",
    ],
)
def test_what_is_no_usable_proxy_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidProxy) as refused:
        parse_proxy(url)
    assert "hush" not in str(refused.value)
    assert str(refused.value)


def test_a_password_is_sent_and_never_shown() -> None:
    proxy = parse_proxy("http://alice:hush@proxy.example:3128")
    assert b"Proxy-Authorization: Basic YWxpY2U6aHVzaA==\r\n" in connect_request(proxy, "s", 443)
    assert not {"hush", "YWxpY2U6aHVzaA=="} & set(f"{proxy} {proxy!r}".replace("'", " ").split())
    assert b"Authorization" not in connect_request(PROXY, "s", 443)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_the_environment_names_a_proxy_which_then_comes_first(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://proxy.example:3128")
    assert proxy_for("3.3.3.3") == Proxy("proxy.example", 3128, first=True)


def test_the_environment_excludes_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "example.org,3.3.3.3")
    assert proxy_for("3.3.3.3") is None
    assert proxy_for("knot.example.org") is None
    assert proxy_for("4.4.4.4") is not None


def test_what_is_configured_counts_and_comes_after_the_direct_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://other.example:1")
    monkeypatch.setenv("NO_PROXY", "*")
    assert proxy_for("3.3.3.3", "http://proxy.example:3128") == PROXY


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_nothing_stands_before_this_very_machine(host: str) -> None:
    assert proxy_for(host, "http://proxy.example:3128") is None


def test_an_unusable_proxy_of_the_environment_is_said_to_be_the_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.example:1080")
    with pytest.raises(InvalidProxy, match="environment names: socks5:// is not spoken"):
        proxy_for("3.3.3.3")


def test_the_ways_are_tried_in_turn_and_by_a_proxy_443_first() -> None:
    assert ways([3478, 443], None) == [(3478, None), (443, None)]
    direct_first = [(3478, None), (443, PROXY), (443, None), (3478, PROXY)]
    assert ways([3478, 443], PROXY) == direct_first
    named = Proxy("proxy.example", 3128, first=True)
    proxy_first = [(443, named), (3478, None), (3478, named), (443, None)]
    assert ways([3478, 443], named) == proxy_first


# ----------------------------------------------------------------------------- its answer

GRANTED = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [GRANTED, b"HTTP/1.0 200\r\n\r\n", b"HTTP/1.1 204 ok\n\n", GRANTED.replace(b"\r", b"")],
)
def test_a_tunnel_is_granted_however_the_answer_is_cut(answer: bytes) -> None:
    for size in range(len(answer)):
        assert not judge(answer[:size], PROXY, "s:443")
    assert judge(answer, PROXY, "s:443")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "does not connect to s:443: 403 Forbidden"),
        (b"HTTP/1.1 407 Auth\r\nX: y\r\n\r\n<html>", "wants a user name and a password"),
        (b"HTTP/1.1 502 \x1b[31mBad\x00\r\n\r\n", r"502 \[31mBad$"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://evil/\r\n\r\n", "302 Found"),
        (GRANTED + b"hello", "says more than it was asked"),
        (b"SSH-2.0-OpenSSH_9\r\n", "no HTTP proxy"),
        (b"\x16\x03\x01\x00\x05hello", "no HTTP proxy"),
        (b"HTTP/2 200\r\n\r\n", "no HTTP proxy"),
        (b"HTTP/1.1 2000 ok\r\n\r\n", "no HTTP proxy"),
        (b"HTTP/1.1 200 " + b"a" * MAX_ANSWER, "does not come to an end"),
        (b"HTTP/1.1 200 ok\r\n" + b"X: y\r\n" * MAX_ANSWER, "does not come to an end"),
    ],
)
def test_every_other_answer_is_a_refusal_in_words(answer: bytes, says: str) -> None:
    with pytest.raises(ProxyRefused, match=says):
        judge(answer, PROXY, "s:443")


def test_no_bytes_break_the_judge() -> None:
    chance = random.Random(11)
    for _ in range(3000):
        answer = bytearray(GRANTED * chance.randrange(1, 3))
        for _ in range(chance.randrange(6)):
            answer[chance.randrange(len(answer))] = chance.randrange(256)
        try:
            judge(bytes(answer), PROXY, "s:443")
        except ProxyRefused as refused:
            assert str(refused).isprintable()


# ------------------------------------------------------------------------------ on sockets

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def proxy_that(serve: Serve) -> AsyncIterator[Proxy]:
    """A proxy whose connections are over when it is."""
    serving: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
                await serve(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield Proxy("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)
        await asyncio.sleep(0)  # an aborted transport closes its socket in the next turn


async def test_a_tunnel_carries_bytes_to_where_it_was_asked_to() -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(GRANTED)
        writer.write((await reader.readexactly(4)).upper())
        await reader.read()

    async with proxy_that(serve) as proxy:
        sock = await open_tunnel(proxy, "2a00::1", 443)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, b"ping")
        assert await loop.sock_recv(sock, 10) == b"PING"
        sock.close()
    assert asked == [b"CONNECT [2a00::1]:443 HTTP/1.1\r\nHost: [2a00::1]:443\r\n\r\n"]


async def test_a_proxy_that_hangs_up_or_talks_for_ever_is_left() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 ok\r\n")
        while not writer.is_closing():
            writer.write(b"X-Header: " + b"a" * 1000 + b"\r\n")
            await writer.drain()

    for serve, says in ((hang_up, "hung up"), (talk, "does not come to an end")):
        async with proxy_that(serve) as proxy:
            with pytest.raises(ProxyRefused, match=says):
                await open_tunnel(proxy, "s", 443)


async def test_a_proxy_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    monkeypatch.setattr("knothole.io.proxy.TUNNEL_SECONDS", 0.05)
    async with proxy_that(silent) as proxy:
        with pytest.raises(ProxyRefused, match="does not answer"):
            await open_tunnel(proxy, "s", 443)


async def test_a_proxy_that_is_not_there_is_named_with_the_reason() -> None:
    async with proxy_that(lambda reader, writer: asyncio.sleep(0)) as proxy:
        pass
    with pytest.raises(ProxyRefused, match=rf"{proxy} cannot be reached \(.*refused"):
        await open_tunnel(proxy, "s", 443)


# --------------------------------------------------------------------------- one of several


async def test_the_first_way_that_succeeds_ends_the_others() -> None:
    ended: list[str] = []

    async def never() -> str:
        try:
            return await asyncio.Future()
        except asyncio.CancelledError:
            ended.append("never")
            raise

    async def soon() -> str:
        return "soon"

    async def refused() -> str:
        raise OSError("refused")

    assert await first_of([never, refused, soon], 0.01, ended.append) == "soon"
    assert ended == ["never"]
    with pytest.raises(OSError, match="refused"):
        await first_of([refused, refused], 10.0, ended.append)
    assert ended == ["never"]


async def test_what_a_second_way_gives_is_discarded_and_not_forgotten() -> None:
    discarded: list[str] = []
    both = asyncio.Event()

    async def one() -> str:
        await both.wait()
        return "one"

    async def other() -> str:
        both.set()
        return "other"

    assert await first_of([one, other], 0.01, discarded.append) in ("one", "other")
    assert await first_of([other, other], 10.0, discarded.append) == "other"
    race = asyncio.create_task(first_of([one], 10.0, discarded.append))
    await asyncio.sleep(0)
    discarded.clear()
    race.cancel()
    with pytest.raises(asyncio.CancelledError):
        await race
