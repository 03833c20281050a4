"""Metrics, health and status of a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from knothole.engine.turn.client import RelayedDataReceived
from knothole.engine.turn.credentials import rest_credentials
from knothole.server.turn_secret import load_secrets
from knothole.wire.address import Transport

from .turn_client import TurnClient

HOST = "127.0.0.1"
PATIENCE = 40.0


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def says(port: int, code: int, text: str) -> None:
    """Wait until /healthz answers that: on a busy machine a relay may seem ill for a moment."""
    deadline = time.monotonic() + PATIENCE
    while (said := await asyncio.to_thread(get, port, "/healthz")) != (code, text):
        assert time.monotonic() < deadline, said
        await asyncio.sleep(0.1)


async def figures(port: int) -> dict[str, float]:
    """Those of a relay that answers."""
    deadline = time.monotonic() + PATIENCE
    while not (found := await figures_now(port))["knothole_process_up process=relay"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    return found


async def figures_now(port: int) -> dict[str, float]:
    code, text = await asyncio.to_thread(get, port, "/metrics")
    assert code == 200
    return {
        " ".join((sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items())))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def server_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "knothole", "server", *arguments, "--data", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def observed(serve, tmp_path, free_port):
    """A server with metrics: the program, its port and that of the metrics."""

    def start(*arguments: str):
        port, metrics = free_port(), free_port()
        config = tmp_path / "server.toml"
        config.write_text(f"data = 'data'\n[metrics]\nlisten = '{HOST}:{metrics}'\n")
        server = serve("--config", str(config), *arguments, port=port)
        server.expect("ready ")
        return server, port, metrics

    return start


@pytest.fixture
async def pair(tmp_path, until):
    """Two clients of a server that have channels to each other."""
    opened: list[TurnClient] = []

    async def open_(port: int) -> list[TurnClient]:
        secret = load_secrets(tmp_path / "data" / "turn-secret")[0]
        for name in ("alice", "bob"):
            opened.append(TurnClient())
            credentials = rest_credentials(secret, name, 600, time.time())
            await opened[-1].open(port, Transport.UDP, credentials)
            assert await opened[-1].is_relayed(until)
        for one, other in (opened, opened[::-1]):
            peer = other.allocation.relayed_address
            one.driver.command(lambda now, o=one, p=peer: o.allocation.bind_channel(p, now))
        return opened

    yield open_
    for each in opened:
        await each.close()


async def sends(one: TurnClient, other: TurnClient, count: int) -> None:
    """So many datagrams at least have come through."""
    peer = other.allocation.relayed_address
    tries = 0
    while len(other.said(RelayedDataReceived)) < count:
        one.driver.command(lambda now: one.allocation.send(peer, b"payload", 0, now))
        await asyncio.sleep(0.01)
        tries += 1
        assert tries < 100 * PATIENCE


@pytest.mark.parametrize("path", ["accelerator", "user-space"])
async def test_metrics_tell_what_both_processes_do_and_nobodys_name(
    observed, pair, until, path
) -> None:
    _, port, metrics = observed(*(["--no-accelerator"] if path == "user-space" else []))
    one, other = await pair(port)
    await sends(one, other, 20)

    async def relayed() -> float:
        found = await figures(metrics)
        return sum(
            found[f"knothole_relayed_packets_total direction=to-clients path={way}"]
            for way in ("accelerator", "user-space")
        )

    for _ in range(int(10 * PATIENCE)):
        if await relayed() >= 20:
            break
        await asyncio.sleep(0.1)  # what the kernel relays is counted once a second
    found = await figures(metrics)
    assert await relayed() >= 20
    assert not (found["knothole_accelerator_on"] and path == "user-space")
    if not found["knothole_accelerator_on"]:
        assert found["knothole_relayed_packets_total direction=to-peers path=accelerator"] == 0
    assert found["knothole_allocations family=ipv4 transport=udp"] == 2
    assert found["knothole_turn_requests_total code=0 method=allocate"] == 2
    assert found["knothole_turn_requests_total code=401 method=allocate"] >= 2
    assert found["knothole_process_up process=relay"] == 1
    assert found["knothole_memory_bytes process=relay"] > 1_000_000
    assert found["knothole_sessions"] == 0
    _, text = await asyncio.to_thread(get, metrics, "/metrics")
    assert "alice" not in text and HOST not in text
    assert (await asyncio.to_thread(get, metrics, "/"))[0] == 404


async def test_health_is_bad_while_it_drains_or_a_process_is_silent(
    observed, until, tmp_path
) -> None:
    server, _, metrics = observed("--relay-only")
    await says(metrics, 200, "ok\n")
    await asyncio.to_thread(server_command, tmp_path / "data", "drain")
    await says(metrics, 503, "draining\n")
    await asyncio.to_thread(server_command, tmp_path / "data", "drain", "--undo")
    await says(metrics, 200, "ok\n")
    relay = server.relay_process()
    os.kill(relay, signal.SIGSTOP)
    try:
        code, why = await asyncio.to_thread(get, metrics, "/healthz")
        assert (code, why) == (503, "a relay process does not answer\n")
        found = await figures_now(metrics)
        assert found["knothole_process_up process=relay"] == 0
    finally:
        os.kill(relay, signal.SIGCONT)
    await says(metrics, 200, "ok\n")


@pytest.mark.parametrize("said", [b"", b"\r\n\r\n", b"GET /\r\n\r\n", b"x" * 100_000])
async def test_nonsense_does_the_metrics_no_harm(observed, said) -> None:
    _, _, metrics = observed("--relay-only")
    reader, writer = await asyncio.open_connection(HOST, metrics)
    writer.write(said)
    writer.write_eof()
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()
    await says(metrics, 200, "ok\n")


def test_a_port_for_metrics_that_is_taken_is_one_line(serve, tmp_path, free_port) -> None:
    port = free_port()
    config = tmp_path / "server.toml"
    config.write_text(f"data = 'data'\n[metrics]\nlisten = '{HOST}:{port}'\n")
    server = serve("--config", str(config), port=port)
    assert server.wait() == 1
    assert f"cannot listen on tcp {HOST}:{port} for metrics: " in server.lines[-1]


async def test_status_shows_users_traffic_and_reached_ports(observed, pair, tmp_path) -> None:
    _, port, _ = observed()
    one, other = await pair(port)
    data = tmp_path / "data"

    async def status(*arguments: str) -> str:
        asking = asyncio.create_task(
            asyncio.to_thread(server_command, data, "status", "--once", *arguments)
        )
        while not asking.done():
            await sends(one, other, len(other.said(RelayedDataReceived)) + 1)
        done = await asking
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    deadline = time.monotonic() + PATIENCE
    while not (facts := json.loads(await status("--json")))["healthy"]:
        assert time.monotonic() < deadline, facts  # a busy machine's relay is silent at times
    assert facts["event"] == "status"
    assert not facts["draining"]
    assert facts["allocations"] == 2
    assert {user["name"] for user in facts["users"]} == {"alice", "bob"}
    assert {each["process"] for each in facts["processes"]} == {"rendezvous", "relay"}
    assert facts["sessions"] == 0
    while "alice" not in (table := await status()):
        assert time.monotonic() < deadline, table
    assert "Allocations" in table


def test_the_table_is_live_in_a_terminal_until_ctrl_c(observed, tmp_path) -> None:
    observed("--relay-only")
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-m", "knothole", "server", "status", "--data", str(tmp_path / "data")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    try:
        while seen.count(b"Allocations") < 2:
            seen += shown(ours)
        program.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the other end is closed
            while more := shown(ours):
                seen += more
        assert program.wait(PATIENCE) == 130
    finally:
        program.kill()
        program.wait()
        os.close(ours)
    assert b"Traceback" not in seen


def shown(terminal: int) -> bytes:
    """What comes next."""
    assert select.select([terminal], [], [], PATIENCE)[0], "nothing comes"
    return os.read(terminal, 65_536)


def test_without_a_server_there_is_no_status(tmp_path: Path) -> None:
    done = server_command(tmp_path, "status", "--once")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"knothole: No server runs with the data folder {tmp_path}.\n"
