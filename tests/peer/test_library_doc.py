"""docs/library.md does what it says: its example runs against a real server on loopback."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from knothole.peer.profile import Profile
from knothole.server.config import ServerConfig
from knothole.server.server import Server

from ..ports import free_port

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "library.md"


async def test_the_example_of_the_document_runs(tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    assert len(code) == 1
    names: dict[str, Any] = {}
    exec(compile(code[0], str(DOCUMENT), "exec"), names)
    port = free_port()
    config = ServerConfig(
        hosts=("127.0.0.1",), port=port, discovery_port=port + 1, data=tmp_path / "server"
    )
    server = Server(config, lambda _event, _text: None)
    url = await server.start()
    try:
        for name in ("alice", "bob"):
            Profile.create(tmp_path / name, name, url).save()
        greeting, echo = await names["main"](str(tmp_path / "alice"), str(tmp_path / "bob"))
    finally:
        await server.stop()
    assert (greeting, echo) == (b"hello alice", b"ping")
