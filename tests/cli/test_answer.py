"""``knothole listen --answer``, where the order of things is ours to choose."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from knothole.cli.answer import Telephone
from knothole.cli.output import Output
from knothole.peer.call import Ring


class Called:
    """As much of a peer as is asked: these calls come, and the server stays."""

    profile = SimpleNamespace(server=SimpleNamespace(host="server.example"))

    def __init__(self, *rings: Ring) -> None:
        self._rings = rings

    async def rings(self) -> AsyncIterator[Ring]:
        for ring in self._rings:
            yield ring

    async def online_changes(self) -> AsyncIterator[bool]:
        for never in ():
            yield never


async def test_a_call_that_came_and_went_while_nobody_looked_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ring = Ring("alice", bytes(32), True, "call", lambda: None, lambda _why: None)
    ring._set_over("alice took the call back.")
    peer: Any = Called(ring)
    await Telephone(Output(json=False), "null", "null", once=False).run(peer)
    assert capsys.readouterr() == ("", "The call of alice was not taken: they gave up.\n")
