"""The whole server in this process, as on systems where the relay has no process of its own.

asyncio's own event loop, too, where the program has uvloop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from knothole.server import server as server_module
from knothole.server.config import ServerConfig
from knothole.server.relay_link import LoopRelay
from knothole.server.server import Server, ServerError

from .conftest import until

HOST = "127.0.0.1"


@pytest.fixture
async def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
) -> AsyncIterator[Callable[..., Server]]:
    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, each: troubles.append(each))
    monkeypatch.setattr(server_module, "make_relay_link", LoopRelay)
    servers: list[Server] = []

    def make(**options: object) -> Server:
        port = free_port()
        settings = {"port": port, "discovery_port": port + 1, "hosts": (HOST,), **options}
        servers.append(Server(ServerConfig(tmp_path / "data", **settings), lambda *_: None))
        return servers[-1]

    yield make
    for server in servers:
        await server.stop()
        await server.stop()
    await until(
        lambda: not any("knothole.server" in repr(t.get_coro()) for t in asyncio.all_tasks())
    )
    await asyncio.sleep(0.01)
    assert troubles == []


async def test_it_serves_clients_of_every_kind(start, clients, stun) -> None:
    server = start()
    url = await server.start()
    for alpn in ("", None, "stun.turn"):
        await asyncio.to_thread(stun.stream, HOST, url.port, alpn)
    await asyncio.to_thread(stun.udp, HOST, url.port)
    await clients.is_served(str(url), "alice")


async def test_http_without_alpn_comes_to_the_switchboard_here_too(start, tls_context) -> None:
    server = start()
    url = await server.start()
    reader, writer = await asyncio.open_connection(HOST, url.port, ssl=tls_context(None))
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 426")
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_everything_can_be_under_way_when_it_is_stopped(
    start, tls_context, client_hello
) -> None:
    server = start()
    url = await server.start()
    writers = []
    for data in (b"", b"\x16\x03", b"\x00\x01", client_hello(["http/1.1"]), client_hello([])):
        _, writer = await asyncio.open_connection(HOST, url.port)
        writer.write(data)
        writers.append(writer)
    for alpn in (None, "stun.turn", "http/1.1"):
        _, writer = await asyncio.open_connection(HOST, url.port, ssl=tls_context(alpn))
        writer.write(b"GET / HTTP/1.1\r\n" if alpn != "stun.turn" else b"\x00")
        writers.append(writer)
    await asyncio.sleep(0.05)
    await server.stop()
    for writer in writers:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def test_a_start_that_is_cancelled_leaves_nothing_open(start, monkeypatch) -> None:
    server = start()
    reached = asyncio.Event()

    async def never(*_: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(LoopRelay, "start", never)
    starting = asyncio.create_task(server.start())
    await reached.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


@pytest.mark.parametrize("what", ["port", "discovery_port"])
async def test_a_udp_port_in_use_is_named(start, free_port, what) -> None:
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((HOST, port))
        with pytest.raises(ServerError, match=f"cannot listen on udp {HOST}:{port}: .* in use"):
            await start(**{what: port}).start()


async def test_a_further_tcp_port_in_use_is_named(start, free_port) -> None:
    port = free_port()
    said = f"cannot listen on tcp {HOST}:{port}: .* in use"
    with socket.create_server((HOST, port)), pytest.raises(ServerError, match=said):
        await start(also_listen=(port,)).start()


async def test_an_address_of_another_machine_is_named(start) -> None:
    with pytest.raises(ServerError) as caught:
        await start(hosts=("203.0.113.77",), port=3478).start()
    assert str(caught.value) == (
        "cannot listen on tcp 203.0.113.77:3478: Cannot assign requested address; "
        "this machine does not have that address"
    )


async def test_a_data_folder_that_cannot_be_used_is_named(start, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(ServerError, match="the data folder cannot be used: ") as caught:
        await start().start()
    assert str(tmp_path / "data") in str(caught.value)


async def test_damaged_accounts_are_named(start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "accounts.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(ServerError, match=r"accounts\.sqlite"):
        await start().start()


async def test_a_damaged_key_is_not_replaced_by_another_one(start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    certificate = tmp_path / "data" / "server-cert.pem"
    certificate.write_text("damaged")
    with pytest.raises(ServerError, match=r"certificate cannot be used: .*server-key\.pem cannot"):
        await start().start()
    assert certificate.read_text() == "damaged"
