"""Settings that change while the server runs: every key, mistakes, and traffic meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from knothole.engine.turn.client import (
    AllocationFailed,
    AllocationLost,
    PeerRefused,
    RelayedDataReceived,
)
from knothole.engine.turn.credentials import Credentials, rest_credentials
from knothole.peer.errors import KnotholeError
from knothole.server.certificate import own_certificate
from knothole.server.config import ServerConfig, load_config
from knothole.server.operation import NotChanged
from knothole.server.server import Server
from knothole.server.turn_secret import load_secrets
from knothole.wire.address import Address, Transport
from knothole.wire.stun import Method, decode

from .conftest import PATIENCE
from .turn_client import TurnClient

HOST, PEER = "127.0.0.1", "127.0.0.2"


class Operated:
    """A server in this process whose configuration file can be rewritten, and clients for it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.said: list[tuple[str, str]] = []
        self.clients: list[TurnClient] = []
        self.write("")

    def write(self, text: str, top: str = "") -> None:
        head = f"host = ['{HOST}']\nport = {self.port}\ndata = 'data'\n"
        (self.folder / "server.toml").write_text(f"{head}{top}\n{text}\n")

    def load(self) -> ServerConfig:
        return load_config(self.folder / "server.toml", default_data=self.folder)

    async def start(self) -> str:
        self.server = Server(self.load(), lambda *news: self.said.append(news), self.load)
        return str(await self.server.start())

    async def reload(self, text: str, top: str = "") -> list[str]:
        self.write(text, top)
        assert self.server.operation is not None
        return await self.server.operation.reload()

    async def client(self, name: str = "alice", secret: str = "") -> TurnClient:
        secret = secret or load_secrets(self.folder / "data" / "turn-secret")[0]
        client = TurnClient()
        self.clients.append(client)
        credentials = rest_credentials(secret, name, 600, time.time())
        await client.open(self.port, Transport.UDP, credentials)
        return client

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        await self.server.stop()


@pytest.fixture
async def here(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[Operated]:
    operated = Operated(tmp_path, free_port())
    yield operated
    await operated.close()


async def is_refused(client: TurnClient, peer: Address, until: Callable) -> bool:
    """Whether the relay forbids this peer; a granted one is seen by a second, forbidden one."""
    client.permit(peer)
    client.permit(Address("224.0.0.1", 9))
    await until(lambda: any(each.peer.host == "224.0.0.1" for each in client.said(PeerRefused)))
    return any(each.peer == peer for each in client.said(PeerRefused))


async def test_allowed_and_denied_peers(here: Operated, until) -> None:
    await here.start()
    client = await here.client()
    assert await client.is_relayed(until)
    assert await is_refused(client, Address(PEER, 7), until)
    assert await here.reload(f"[relay]\nallow-peers = ['{PEER}/32']") == []
    second = await here.client()
    assert await second.is_relayed(until)
    assert not await is_refused(second, Address(PEER, 7), until)
    both = f"[relay]\nallow-peers = ['{PEER}/32']\ndeny-peers = ['127.0.0.0/8']"
    await here.reload(both)
    third = await here.client()
    assert await third.is_relayed(until)
    assert await is_refused(third, Address(PEER, 7), until)


async def test_limits(here: Operated, until) -> None:
    await here.start()
    await here.reload("[relay]\nallocations-per-user = 1")
    first, second = await here.client(), await here.client()
    assert sorted([await first.is_relayed(until), await second.is_relayed(until)]) == [False, True]
    await here.reload("[relay]\nallocations-per-user = 9\nallocations = 2")
    assert await (await here.client()).is_relayed(until)
    full = await here.client()
    assert not await full.is_relayed(until)
    assert full.said(AllocationFailed)[0].code == 508


async def test_the_file_of_the_secret(here: Operated, until) -> None:
    await here.start()
    before = await here.client()
    assert await before.is_relayed(until)
    secret = here.folder / "secret"
    secret.touch(0o600)
    secret.write_text("a secret of the operator\n")
    await here.reload("[relay]\nsecret-file = 'secret'")
    assert await (await here.client(secret="a secret of the operator")).is_relayed(until)
    assert not await (await here.client()).is_relayed(until)
    before.driver.command(before.allocation.refresh)
    await until(lambda: bool(before.said(AllocationLost)))


async def test_users_with_a_password_for_good(here: Operated, until) -> None:
    await here.start()
    (here.folder / "password").touch(0o600)
    (here.folder / "password").write_text("a password for good\n")
    await here.reload("[[user]]\nname = 'bridge'\npassword-file = 'password'")
    client = TurnClient()
    here.clients.append(client)
    credentials = Credentials("bridge", "a password for good")
    await client.open(here.port, Transport.UDP, credentials)
    assert await client.is_relayed(until)
    await here.reload("")
    client.driver.command(client.allocation.refresh)
    await until(lambda: bool(client.said(AllocationLost)))


async def test_whether_invitations_are_needed(here: Operated, clients) -> None:
    url = await here.start()
    await clients.peer(url, "alice")
    await here.reload("[accounts]\ninvitation-required = true")
    with pytest.raises(KnotholeError, match="invitation"):
        await clients.peer(url, "bob")
    await here.reload("")
    await clients.peer(url, "bob", folder="bob again")


async def test_other_turn_servers_and_whether_this_one_relays(
    here: Operated, clients, until
) -> None:
    url = await here.start()
    (here.folder / "other").write_text("a long secret\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.9", 0))
        other.settimeout(0)
        uri = f"turn:127.0.0.9:{other.getsockname()[1]}"
        await here.reload(
            f"[relay]\nallocations = 0\n[[turn]]\nuris = ['{uri}']\nsecret-file = 'other'"
        )
        await clients.peer(url, "alice")
        asked: list[bytes] = []

        def is_asked() -> bool:
            with contextlib.suppress(BlockingIOError):
                asked.append(other.recv(2048))
            return bool(asked)

        await until(is_asked)
        assert decode(asked[0]).method == Method.ALLOCATE
    await here.reload("")
    await clients.relayed(url, "bob")


async def test_the_certificate(here: Operated, stun, tls) -> None:
    def served() -> bytes:
        seen = set()
        for alpn in ("http/1.1", "stun.turn"):  # one for each process
            plain = socket.create_connection((HOST, here.port), timeout=40)
            with plain, tls(plain, alpn) as connection:
                seen.add(connection.getpeercert(binary_form=True))
        [certificate] = seen
        return certificate

    for name in ("one", "two"):
        (here.folder / name).mkdir()
        own_certificate(here.folder / name)

    def table(name: str) -> str:
        return f"[tls]\ncertificate = '{name}/server-cert.pem'\nkey = '{name}/server-key.pem'"

    here.write(table("one"))
    await here.start()
    before = await asyncio.to_thread(served)
    await here.reload(table("two"))
    after = await asyncio.to_thread(served)
    assert after != before
    with pytest.raises(NotChanged, match="is not the key of the certificate"):
        await here.reload("[tls]\ncertificate = 'one/server-cert.pem'\nkey = 'two/server-key.pem'")
    assert await asyncio.to_thread(served) == after
    assert await here.reload("") == ["tls"]
    assert await asyncio.to_thread(served) == after


async def test_what_needs_a_restart_is_said_and_stays(here: Operated, stun) -> None:
    await here.start()
    restart = await here.reload("", top="classic-stun = true\nalso-listen = [4443]")
    assert restart == ["also-listen", "classic-stun"]
    assert ("warning", "classic-stun: changed in the file, but needs a restart") in here.said
    assert ("reloaded", "reloaded; needs a restart: also-listen, classic-stun") in here.said
    assert await here.reload("") == []


@pytest.mark.parametrize(
    "mistake",
    [
        "[relay",
        "[relay]\nallow-pears = []",
        "[relay]\nallow-peers = ['10.0.0.1/8']",
        "[relay]\ndeny-peers = ['nonsense']",
        "[relay]\nallocations = -1",
        "[relay]\nsecret-file = 'none'",
        "[tls]\ncertificate = 'none.pem'\nkey = 'none.pem'",
    ],
)
async def test_a_mistake_changes_nothing_at_all(here: Operated, until, mistake) -> None:
    """Whatever else the file says, and it fails closed: what was denied stays so."""
    here.write("[relay]\ndeny-peers = ['127.0.0.0/8']\nallocations-per-user = 1")
    await here.start()
    running = here.server.operation.config
    with pytest.raises(NotChanged, match="the settings stay as they were: "):
        await here.reload(f"{mistake}\n[accounts]\ninvitation-required = true")
    assert here.server.operation.config is running
    assert here.said[-1][0] == "warning"
    client = await here.client()
    assert await client.is_relayed(until)
    assert await is_refused(client, Address(PEER, 7), until)
    assert not await (await here.client()).is_relayed(until)


async def test_a_revocation_list_that_is_damaged_changes_nothing(here: Operated, until) -> None:
    await here.start()
    (here.folder / "data" / "revoked-users").write_bytes(b"\xff")
    for what in (here.server.operation.reload, here.server.operation.refresh):
        with pytest.raises(NotChanged, match="is not UTF-8 text"):
            await what()
    assert await (await here.client()).is_relayed(until)


# ---------------------------------------------------------------------------- as a program


def server_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "knothole", "server", *arguments, "--data", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Callable]:
    """Opens an allocation with what ``server credentials`` prints."""
    opened: list[TurnClient] = []

    async def open_(port: int, name: str = "alice") -> TurnClient:
        command = ("credentials", name, "--json")
        done = await asyncio.to_thread(server_command, tmp_path / "data", *command)
        made = json.loads(done.stdout)
        opened.append(TurnClient())
        await opened[-1].open(port, Transport.UDP, Credentials(made["username"], made["password"]))
        return opened[-1]

    yield open_
    for each in opened:
        await each.close()


async def test_sighup_under_traffic_loses_nothing_and_a_mistake_is_one_line(
    serve, free_port, client, until, tmp_path
) -> None:
    port, config = free_port(), tmp_path / "server.toml"
    config.write_text(f"data = 'data'\n[relay]\nallow-peers = ['{PEER}/32']\n")
    server = serve("--config", str(config), port=port).ready()
    sender, receiver = await client(port), await client(port, "bob")
    assert await sender.is_relayed(until) and await receiver.is_relayed(until)
    ends = (sender, receiver), (receiver, sender)
    for one, other in ends:
        peer = other.allocation.relayed_address
        one.driver.command(lambda now, one=one, p=peer: one.allocation.bind_channel(p, now))
    there = receiver.allocation.relayed_address
    payloads: set[bytes] = set()

    async def passes(payload: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while payload not in payloads:
            assert time.monotonic() < deadline
            sender.driver.command(lambda now: sender.allocation.send(there, payload, 0, now))
            await asyncio.sleep(0.01)
            payloads.update(e.datagram.payload for e in receiver.said(RelayedDataReceived))

    await passes(b"before")
    for number in range(5):
        config.write_text(
            f"data = 'data'\n[relay]\nallow-peers = ['{PEER}/32']\nallocations = {100 + number}\n"
        )
        server.process.send_signal(signal.SIGHUP)
        await until(lambda n=number: server.lines.count("reloaded") > n)
        await passes(b"after %d" % number)
    config.write_text("data = 'data'\n[relay]\nallocations = 'many'\n")
    server.process.send_signal(signal.SIGHUP)
    said = await asyncio.to_thread(server.expect, "not reloaded")
    assert said == (
        f"not reloaded, the settings stay as they were: {config}, line 3: relay.allocations: "
        "expected int, got str"
    )
    done = await asyncio.to_thread(server_command, tmp_path / "data", "reload")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"knothole: {said}\n"
    with_file = await asyncio.to_thread(
        server_command, tmp_path / "data", "reload", "--config", str(config)
    )
    assert (with_file.returncode, with_file.stdout) == (1, "")
    assert with_file.stderr == f"knothole: {said}\n"
    await passes(b"after the mistake")
    assert not sender.said(AllocationLost) and not receiver.said(AllocationLost)
    assert server.stop() == 0


async def test_sigusr1_and_drain_let_the_relay_run_out(
    serve, free_port, client, clients, until, tmp_path
) -> None:
    port = free_port()
    server = serve(port=port).ready()
    old = await client(port)
    assert await old.is_relayed(until)
    peer = await clients.relayed(server.url, "carol")
    server.process.send_signal(signal.SIGUSR1)
    await asyncio.to_thread(server.expect, "draining: no new allocations")
    new = await client(port)
    assert not await new.is_relayed(until)
    assert new.said(AllocationFailed)[0].code == 508
    old.driver.command(old.allocation.refresh)
    assert peer.online
    done = await asyncio.to_thread(server_command, tmp_path / "data", "drain", "--undo", "--json")
    assert json.loads(done.stdout) == {"event": "drain", "draining": False}
    assert await (await client(port)).is_relayed(until)
    assert not old.said(AllocationLost)
    assert server_command(tmp_path / "data", "drain").stdout == "draining: no new allocations\n"


async def test_while_it_drains_clients_are_sent_to_the_alternate_server_of_their_family(
    here: Operated, until
) -> None:
    await here.start()
    old = await here.client()
    assert await old.is_relayed(until)
    elsewhere = Address("203.0.113.7", 3478)
    await here.reload("[relay]\nalternates = ['[2001:db8::7]:3478', '203.0.113.7:3478']")
    assert await (await here.client()).is_relayed(until), "it is not draining yet"
    await here.server.operation.drain()
    new = await here.client()
    assert not await new.is_relayed(until)
    [failed] = new.said(AllocationFailed)
    assert (failed.code, failed.alternate_server) == (300, elsewhere)
    old.driver.command(old.allocation.refresh)
    await here.reload("[relay]\nalternates = ['[2001:db8::7]:3478']")
    other_family = await here.client()
    assert not await other_family.is_relayed(until)
    assert [each.code for each in other_family.said(AllocationFailed)] == [508]
    await here.server.operation.drain(False)
    assert await (await here.client()).is_relayed(until)
    assert not old.said(AllocationLost)


async def test_who_is_revoked_loses_allocations_at_once_and_after_a_restart(
    serve, free_port, client, until, tmp_path
) -> None:
    port, data = free_port(), tmp_path / "data"
    server = serve("--relay-only", port=port)
    server.expect("ready ")
    alice, bob = await client(port, "alice"), await client(port, "bob")
    assert await alice.is_relayed(until) and await bob.is_relayed(until)
    done = await asyncio.to_thread(server_command, data, "revoke", "alice")
    assert (done.returncode, done.stdout) == (0, "alice is shut out\n")
    for each in (alice, bob):
        each.driver.command(each.allocation.refresh)
    await until(lambda: bool(alice.said(AllocationLost)))
    assert not await (await client(port, "alice")).is_relayed(until)
    assert not bob.said(AllocationLost)
    server.stop()
    serve("--relay-only", port=port).expect("ready ")
    assert not await (await client(port, "alice")).is_relayed(until)
    done = await asyncio.to_thread(server_command, data, "revoke", "alice", "--undo", "--json")
    assert json.loads(done.stdout) == {"event": "revoke", "name": "alice", "revoked": False}
    assert await (await client(port, "alice")).is_relayed(until)


async def test_a_new_secret_is_brought_in_and_the_old_one_dropped_while_it_runs(
    serve, free_port, client, until, tmp_path
) -> None:
    port, data = free_port(), tmp_path / "data"
    serve("--relay-only", port=port).expect("ready ")
    before = await client(port)
    assert await before.is_relayed(until)
    done = await asyncio.to_thread(server_command, data, "rotate-secret")
    assert done.stdout == "there is a new secret, and the server knows\n"
    after = await client(port)
    assert await after.is_relayed(until)
    before.driver.command(before.allocation.refresh)
    done = await asyncio.to_thread(server_command, data, "rotate-secret", "--drop-old", "--json")
    assert json.loads(done.stdout) == {"event": "secret", "dropped": True}
    for each in (before, after):
        each.driver.command(each.allocation.refresh)
    await until(lambda: bool(before.said(AllocationLost)))
    assert not after.said(AllocationLost)


def test_a_second_server_with_the_same_data_is_refused(serve, tmp_path) -> None:
    serve().ready()
    second = serve()
    assert second.wait() == 1
    assert f"another server runs with the data folder {tmp_path / 'data'}" in second.lines[-1]


@pytest.mark.parametrize("command", [("drain",), ("reload",)])
def test_without_a_server_there_is_one_line(tmp_path: Path, command) -> None:
    done = server_command(tmp_path, *command)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"knothole: No server runs with the data folder {tmp_path}.\n"
