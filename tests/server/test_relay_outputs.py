"""What the engine wants done is done in its order, whatever comes of it meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace

from knothole.engine.turn.server_events import (
    InstallShortcut,
    RemoveShortcut,
    ServerOutput,
    Shortcut,
    ShortcutKey,
)
from knothole.server.relay_outputs import RelayOutputs
from knothole.wire.address import Address

CLIENT, SERVER = Address("198.51.100.1", 4000), Address("192.0.2.1", 3478)
KEY = ShortcutKey(CLIENT, SERVER, 0x4000)
SHORTCUT = Shortcut(Address("192.0.2.1", 50_000), Address("203.0.113.1", 5000), 0, 600.0)


class Turn:
    """In the place of an engine."""

    def __init__(self, *wanted: ServerOutput) -> None:
        self.wanted = deque(wanted)

    def outputs(self) -> Iterator[ServerOutput]:
        while self.wanted:
            yield self.wanted.popleft()

    def next_timeout(self) -> float | None:
        return None


class Kernel:
    """In the place of the accelerator: what is taken out tells first what has passed by it."""

    is_on = True

    def __init__(self) -> None:
        self.done: list[str] = []

    def install(self, *_: object) -> None:
        self.done.append("installed")

    def remove(self, key: ShortcutKey) -> None:
        self.outputs.drain(0.0)  # as whoever tells the engine something does
        self.done.append("removed")


async def test_what_is_to_be_done_next_waits_until_the_last_thing_is_done() -> None:
    """A shortcut may be taken out and put in again at once, as when its client has moved."""
    turn, kernel = Turn(RemoveShortcut(KEY), InstallShortcut(KEY, SHORTCUT, ())), Kernel()
    nothing = SimpleNamespace(routes=SimpleNamespace(remove=lambda _: None))
    kernel.outputs = RelayOutputs(
        turn,
        nothing,
        nothing,
        kernel,
        nothing,
        {},
        nothing,
        open_relay=lambda *_: None,
        tell=lambda *_: None,
    )
    kernel.outputs.drain(0.0)
    assert kernel.done == ["removed", "installed"]
    kernel.outputs.stop()
