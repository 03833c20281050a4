"""Debian's coturn: as the relay that our server hands out, and as a client of our server."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from knothole.wire.address import Address
from knothole.wire.candidate import CandidateKind

from ..certificates import write_certificates

pytestmark = pytest.mark.interop

HOST = "127.0.0.1"
SECRET = "a secret shared with coturn"
RELAYED = range(61_000, 61_100)
PATIENCE = 40.0


@pytest.fixture
def coturn(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[int]:
    """coturn with ``use-auth-secret``; its port, which takes TLS too."""
    port = free_port()
    write_certificates(tmp_path, [HOST])
    process = subprocess.Popen(
        [
            *("turnserver", "-n", "--no-cli", "--simple-log"),
            *(f"--cert={tmp_path}/chain.pem", f"--pkey={tmp_path}/key.pem"),
            *("--use-auth-secret", f"--static-auth-secret={SECRET}", "--realm=coturn.test"),
            *(f"--listening-ip={HOST}", f"--relay-ip={HOST}", f"--listening-port={port}"),
            *(f"--min-port={RELAYED.start}", f"--max-port={RELAYED.stop - 1}"),
            *(f"--log-file={tmp_path}/log", f"--pidfile={tmp_path}/pid"),
            f"--userdb={tmp_path}/db",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
                break
            assert time.monotonic() < deadline, "coturn does not start"
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


def configured(folder: Path, uri: str, secret: str = SECRET, own: int = 0) -> str:
    (folder / "secret").write_text(f"{secret}\n")
    file = folder / "server.toml"
    file.write_text(
        f'data = "data"\n[relay]\nallocations = {own}\n'
        f'[[turn]]\nuris = ["{uri}"]\nsecret-file = "secret"\n'
    )
    return str(file)


def relayed_addresses(peer) -> list[Address]:
    return [
        candidate.candidate.address
        for candidate in peer.endpoint.gatherer.candidates
        if candidate.candidate.kind is CandidateKind.RELAYED
    ]


@pytest.mark.parametrize(
    ("scheme", "transport"), [("turn", "udp"), ("turn", "tcp"), ("turns", "tcp")]
)
async def test_a_peer_is_relayed_by_coturn_with_credentials_from_our_server(
    serve, clients, coturn, tmp_path, monkeypatch, scheme, transport
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    config = configured(tmp_path, f"{scheme}:{HOST}:{coturn}?transport={transport}")
    server = serve("--config", config).ready()
    assert not any("relaying" in line for line in server.lines), "it relays nothing itself"
    peer = await clients.relayed(server.url, "alice")
    [relayed] = relayed_addresses(peer)
    assert relayed.host == HOST
    assert relayed.port in RELAYED


async def test_coturn_wants_the_same_secret(serve, clients, coturn, tmp_path, until) -> None:
    config = configured(tmp_path, f"turn:{HOST}:{coturn}?transport=udp", secret="another secret")
    server = serve("--config", config).ready()
    peer = await clients.peer(server.url, "alice")
    log = tmp_path / "log"
    await until(lambda: log.exists() and "Cannot find credentials" in log.read_text())
    assert relayed_addresses(peer) == []


def output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_with_one_host_it_says_that_there_is_no_other(serve, free_port) -> None:
    port = free_port()
    serve(port=port).ready()
    said = output_of("turnutils_stunclient", "-p", str(port), "-L", HOST, HOST)
    assert f"UDP reflexive addr: {HOST}:" in said
    assert "Other addr" not in said
