"""``knothole turn-client`` with Debian's coturn, over every way to it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.interop

PATIENCE = 90.0
SECRET = "north"
PATIENT = (
    "from knothole.io import turn_load; turn_load.MEET_SECONDS = turn_load.LATE_SECONDS = 40.0;"
    "from knothole.cli import main; main()"
)
"""The program, but it waits longer for what is late on a busy machine."""
REST = ("--use-auth-secret", f"--static-auth-secret={SECRET}", "--allow-loopback-peers")


async def turn_client(*arguments: str) -> tuple[int | None, list[dict]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PATIENT, "turn-client", *arguments, "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    return process.returncode, [json.loads(line) for line in output.decode().splitlines()]


@pytest.mark.parametrize("scheme", ["turn", "turns"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_echo_and_load(coturn, tmp_path: Path, scheme: str, transport: str) -> None:
    plain, tls = await coturn(*REST)
    server = tls if scheme == "turns" else plain
    uri = f"{scheme}:{server}?transport={transport}"
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    access = ("--secret-file", str(secret), "--insecure")

    code, events = await turn_client("echo", uri, *access)
    assert code == 0, events
    assert [event["bytes"] for event in events if event["event"] == "echo"] == [1, 100, 1000]
    assert events[0]["software"].startswith("Coturn")

    code, [load] = await turn_client(
        "load", uri, *access, "--allocations", "4", "--seconds", "0.5", "--pps", "20"
    )
    assert code == 0, load
    assert load["received"] == load["sent"] > 0


async def test_a_wrong_secret_is_told(coturn, tmp_path: Path) -> None:
    plain, _ = await coturn(*REST)
    secret = tmp_path / "secret"
    secret.write_text("south")
    code, [error] = await turn_client("allocate", f"turn:{plain}", "--secret-file", str(secret))
    assert code == 1
    assert "401" in error["text"]
