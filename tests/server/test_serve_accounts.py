"""Names and invitations on a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import knothole

CONFIG = """
data = "kept"
[accounts]
invitation-required = true
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "server.toml"
    file.write_text(CONFIG)
    return file


def invite(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "knothole", "invite", *arguments],
        capture_output=True,
        text=True,
        timeout=40,
        env={**os.environ, "KNOTHOLE_HOME": str(folder / "home"), "PYTHONWARNINGS": "error"},
        check=False,
    )


async def test_a_new_name_needs_an_invitation_where_the_operator_says_so(
    serve, clients, config, tmp_path
) -> None:
    server = serve("--config", str(config)).ready()
    with pytest.raises(knothole.RegistrationRefused, match="needs an invitation"):
        await clients.peer(server.url, "alice")
    with pytest.raises(knothole.RegistrationRefused, match="not known or has been used"):
        await clients.peer(server.url, "alice", invitation="aaaaa-bbbbb-ccccc-ddddd")

    done = invite(tmp_path, "--config", str(config), "--count", "2")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()
    assert "--invitation CODE" in done.stderr

    await clients.peer(server.url, "alice", invitation=first)
    await clients.peer(server.url, "alice")  # who has a name needs no invitation
    with pytest.raises(knothole.RegistrationRefused, match="not known or has been used"):
        await clients.peer(server.url, "bob", invitation=first)
    await clients.peer(server.url, "bob", invitation=second.upper().replace("-", " "))


def test_an_invitation_to_a_server_that_asks_for_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("port = 4000\n")
    done = invite(tmp_path, "--config", str(file))
    assert done.returncode == 1
    assert "lets everybody have a name without an invitation" in done.stderr


def test_without_a_server_there_is_nothing_to_invite_to(tmp_path: Path) -> None:
    done = invite(tmp_path)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert f"There is no server's data in {tmp_path / 'home' / 'server'}" in line
    assert not (tmp_path / "home").exists()
