"""A real server on loopback, in this process, and profiles for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from knothole.peer.profile import Profile
from knothole.server.config import ServerConfig
from knothole.server.server import Server
from knothole.wire.server_url import ServerUrl

from ..ports import free_port


class Town:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url: ServerUrl
        self._server: Server | None = None

    async def start(self) -> None:
        config = ServerConfig(
            hosts=("127.0.0.1",),
            port=self.port,
            discovery_port=self.port + 1,  # not 3479: other tests run at the same time
            data=self.folder / "server",
        )
        self._server = Server(config, lambda _event, _text: None)
        self.url = await self._server.start()

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    def profile(self, name: str) -> Profile:
        profile = Profile.create(self.folder / name, name, self.url)
        profile.save()
        return profile


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Town]:
    town = Town(tmp_path)
    before = asyncio.all_tasks()
    await town.start()
    yield town
    await town.stop()
    ours = {*before, asyncio.current_task()}
    left = [task for task in asyncio.all_tasks() if task not in ours]
    assert left == []
