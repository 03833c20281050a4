"""The socket by which commands on this machine talk to a server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from knothole.server.control import ControlSocket, NoServer, Reply, Request, ask


@pytest.fixture
async def control() -> AsyncIterator[ControlSocket]:
    async def carry_out(request: Request) -> Reply:
        return Reply(request.command.upper(), facts={"draining": request.draining})

    here = ControlSocket(carry_out)
    yield here
    await here.close()
    await here.close()


async def test_a_command_is_answered(control: ControlSocket, tmp_path: Path) -> None:
    await control.open(tmp_path)
    assert (tmp_path / "control").stat().st_mode & 0o777 == 0o600
    reply = await asyncio.to_thread(ask, tmp_path, Request("drain", draining=False))
    assert reply == Reply("DRAIN", facts={"draining": False})


async def test_it_is_there_however_long_the_folders_name_is(
    control: ControlSocket, tmp_path: Path
) -> None:
    folder = tmp_path / ("long" * 50)
    folder.mkdir()
    await control.open(folder)
    assert (await asyncio.to_thread(ask, folder, Request("x"))).text == "X"


async def test_what_a_killed_server_left_is_taken_over_and_a_living_one_is_not(
    control: ControlSocket, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as killed:
        killed.bind(str(tmp_path / "control"))
    with pytest.raises(NoServer, match="No server runs"):
        ask(tmp_path, Request("x"))
    await control.open(tmp_path)
    second = ControlSocket(control._carry_out)
    with pytest.raises(FileExistsError):
        await second.open(tmp_path)
    assert (await asyncio.to_thread(ask, tmp_path, Request("x"))).text == "X"
    await control.close()
    assert not (tmp_path / "control").exists()
    with pytest.raises(NoServer, match="No server runs"):
        ask(tmp_path, Request("x"))


@pytest.mark.parametrize("said", [b"", b"nonsense\n", b"{}\n", b"[" * 300_000, b'{"command": 1}\n'])
async def test_nonsense_is_not_answered_and_does_no_harm(
    control: ControlSocket, tmp_path: Path, said: bytes
) -> None:
    await control.open(tmp_path)
    reader, writer = await asyncio.open_unix_connection(tmp_path / "control")
    writer.write(said)
    writer.write_eof()
    with contextlib.suppress(ConnectionError):  # it has closed with something unread
        assert await reader.read() == b""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    assert (await asyncio.to_thread(ask, tmp_path, Request("x"))).text == "X"


async def test_who_says_nothing_does_not_hold_up_the_end(
    control: ControlSocket, tmp_path: Path
) -> None:
    await control.open(tmp_path)
    _, writer = await asyncio.open_unix_connection(tmp_path / "control")
    await asyncio.sleep(0)
    await control.close()
    writer.close()
    await writer.wait_closed()
