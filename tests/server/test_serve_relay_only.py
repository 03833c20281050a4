"""``knothole serve --relay-only`` and ``knothole server credentials`` as programs."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from knothole.engine.turn.client import (
    Allocated,
    AllocationFailed,
    PeerRefused,
    RelayedDataReceived,
)
from knothole.engine.turn.credentials import Credentials
from knothole.server.certificate import own_certificate
from knothole.server.turn_secret import drop_old_secrets, rotate_secret
from knothole.wire.address import Address, Transport
from knothole.wire.turn_uri import parse_server_uri

from .conftest import PATIENCE
from .server_command import server_command
from .turn_client import TurnClient

HOST = "127.0.0.1"


def minted(folder: Path, name: str = "somebody", *arguments: str) -> dict:
    done = server_command("credentials", name, "--data", str(folder), "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
async def client() -> AsyncIterator[Callable]:
    """Opens an allocation by a URI with what ``server credentials`` has printed."""
    opened: list[TurnClient] = []

    async def open_(made: dict, uri: str = "", pin: bytes | None = None) -> TurnClient:
        where = parse_server_uri(uri or made["uris"][0])
        opened.append(TurnClient())
        credentials = Credentials(made["username"], made["password"])
        await opened[-1].open(where.port, where.transport, credentials, pin)
        return opened[-1]

    yield open_
    for each in opened:
        if hasattr(each, "driver"):
            await each.close()


def test_it_says_when_the_system_has_too_few_files_for_all_allocations(serve) -> None:
    def with_few(*arguments, **options) -> subprocess.Popen[str]:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (900, 1000))

        return subprocess.Popen(*arguments, preexec_fn=limit, **options)

    server = serve("--relay-only", popen=with_few)
    assert "room for 872 of 10000 allocations: " in server.expect("room for ")
    assert server.ready().stop() == 0


def test_it_says_where_it_relays_and_keeps_no_accounts(serve, free_port, tmp_path) -> None:
    port = free_port()
    server = serve("--relay-only", port=port)
    assert server.expect("ready ") == f"ready turn:{HOST}:{port}"
    assert f"open in the firewall: tcp {port}: needed (relay where UDP is blocked)" in server.lines
    assert not (tmp_path / "data" / "accounts.sqlite").exists()
    assert server.stop() == 0
    assert "switchboard" not in "".join(server.lines)


def test_every_address_has_a_line_and_programs_get_all_uris(serve, free_port) -> None:
    port, further = free_port(), free_port()
    server = serve("--relay-only", "--host", "::1", "--also-listen", str(further), port=port)
    server.expect(f"ready turn:{HOST}:{port}")
    server.expect(f"ready turn:[::1]:{port}")
    server.stop()
    ready = json.loads(serve("--relay-only", "--json", port=port).expect('"ready"'))
    assert ready["url"] is None
    assert ready["uris"][0] == f"turn:{HOST}:{port}?transport=udp"


async def test_minted_credentials_open_an_allocation_by_every_uri(
    serve, client, until, tmp_path
) -> None:
    serve("--relay-only").expect("ready ")
    made = minted(tmp_path / "data", "somebody", "--lifetime", "60")
    assert {parse_server_uri(uri).transport for uri in made["uris"]} == {
        Transport.UDP,
        Transport.TCP,
        Transport.TLS,
    }
    assert made["username"].endswith(":somebody")
    pin = own_certificate(tmp_path / "data").key_hash
    for uri in made["uris"]:
        opened = await client(made, uri, pin)
        await until(lambda opened=opened: bool(opened.said(Allocated)))


async def test_allowed_peers_are_reached_from_the_relay_host(
    serve, client, until, tmp_path
) -> None:
    arguments = ("--relay-only", "--relay-host", "127.0.0.3", "--allow-peer", "127.0.0.2/32")
    serve(*arguments).expect("ready ")
    opened = await client(minted(tmp_path / "data"))
    await until(lambda: bool(opened.said(Allocated)))
    assert opened.allocation.relayed_address.host == "127.0.0.3"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.2", 0))
        peer.setblocking(False)
        there = Address(*peer.getsockname())
        opened.driver.command(lambda now: opened.allocation.bind_channel(there, now))
        deadline = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < deadline
            opened.driver.command(lambda now: opened.allocation.send(there, b"there", 0, now))
            await asyncio.sleep(0.02)
            try:
                data, relayed = peer.recvfrom(100)
            except BlockingIOError:
                continue
            break
        assert (data, relayed) == (b"there", tuple(opened.allocation.relayed_address))
        peer.sendto(b"and back", relayed)
        await until(lambda: bool(opened.said(RelayedDataReceived)))
    forbidden = Address("127.0.0.4", 9)
    opened.driver.command(lambda now: opened.allocation.permit(forbidden, now))
    await until(lambda: bool(opened.said(PeerRefused)))


async def test_credentials_outlive_a_restart_and_one_rotation_of_the_secret(
    serve, client, until, tmp_path, free_port
) -> None:
    port, data = free_port(), tmp_path / "data"
    first = serve("--relay-only", port=port)
    first.expect("ready ")
    before = minted(data)
    first.stop()
    rotate_secret(data / "turn-secret")
    second = serve("--relay-only", port=port)
    second.expect("ready ")
    after = minted(data)
    for made in (before, after):
        opened = await client(made)
        await until(lambda opened=opened: bool(opened.said(Allocated)))
    second.stop()
    drop_old_secrets(data / "turn-secret")
    serve("--relay-only", port=port).expect("ready ")
    opened, refused = await client(after), await client(before)
    await until(lambda: bool(opened.said(Allocated)))
    await until(lambda: bool(refused.said(AllocationFailed)))
    assert refused.said(AllocationFailed)[0].code == 401


def test_a_web_socket_is_turned_away(serve, free_port, tls) -> None:
    port = free_port()
    serve("--relay-only", port=port).expect("ready ")
    for alpn in ("http/1.1", None):
        with socket.create_connection((HOST, port), timeout=40) as plain:
            try:
                with tls(plain, alpn) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert connection.recv(100) == b""
            except OSError:
                pass  # it was closed before TLS was open


def test_a_secret_of_the_operator_is_used_and_never_made(serve, tmp_path) -> None:
    secret = tmp_path / "secret"
    config = tmp_path / "server.toml"
    config.write_text('data = "data"\nrelay-only = true\n[relay]\nsecret-file = "secret"\n')
    server = serve("--config", str(config))
    assert server.wait() == 1
    assert "line 4: relay.secret-file: " in server.lines[-1]
    secret.touch(0o600)
    secret.write_text("the operator's own secret\n")
    serve("--config", str(config)).expect("ready turn:")
    assert not (tmp_path / "data" / "turn-secret").exists()
    done = server_command("credentials", "bob", "--config", str(config))
    assert done.returncode == 0
    headings = [line.split()[0] for line in done.stdout.splitlines()]
    assert headings == ["username", "password", "realm", "uri", "uri", "uri"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--relay-host", "203.0.113.77"), "cannot relay from 203.0.113.77"),
        (("--relay-host", "example.org"), "--relay-host: 'example.org' is not an IP address"),
        (("--relay-host", "0.0.0.0"), "--relay-host: name the address itself"),
        (("--allow-peer", "10.0.0.1/8"), "--allow-peer: 10.0.0.1/8 has host bits set"),
    ],
)
def test_what_it_cannot_do_is_one_line(serve, arguments, said) -> None:
    server = serve("--relay-only", *arguments)
    assert server.wait() == (1 if "cannot" in said else 2)
    assert said in server.lines[-1]


def test_credentials_need_a_server_that_was_started_once(tmp_path: Path) -> None:
    done = server_command("credentials", "alice", "--data", str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (f"knothole: There is no server's data in {tmp_path}: start it first.\n")
