"""``knothole server status``"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from knothole.cli.options import Config, Data
from knothole.cli.output import Output

if TYPE_CHECKING:
    from knothole.server.config import ServerConfig
    from knothole.server.snapshot import Snapshot

EVERY_SECONDS: Final = 1.0
USERS: Final = 10


def status(
    *,
    once: bool = False,
    data: Data = None,
    config: Config = None,
    json: bool = False,
) -> int:
    """Show how your server is: relayed traffic, allocations, users, the accelerator.

    A table that is renewed every second until Ctrl-C. Run it as the user that the server runs as.
    The exit code is 1 when no server runs.

    Example: knothole server status --once

    Parameters
    ----------
    once
        Show it once. Takes a second, in which it is measured.
    json
        One JSON object per second, or one in all with --once.
    """
    from knothole.cli.server_folder import server_settings

    settings = server_settings(data, config)
    if json:
        return _as_objects(settings, Output(json=True), once)
    return _as_table(settings, once)


class _Watch:
    """Looks again and again; what has passed between two looks makes a rate."""

    def __init__(self, settings: ServerConfig) -> None:
        self._settings = settings
        self._before, self._at = self._look(), time.monotonic()

    def next(self) -> tuple[Snapshot, Snapshot, float]:
        """The newest snapshot a while later, the one before, and the seconds between."""
        time.sleep(EVERY_SECONDS)
        before, at = self._before, self._at
        self._before, self._at = self._look(), time.monotonic()
        return self._before, before, self._at - at

    def _look(self) -> Snapshot:
        import msgspec

        from knothole.cli.server_folder import ask_server
        from knothole.server.control import Request
        from knothole.server.snapshot import Snapshot

        reply = ask_server(self._settings, Request("status", users=USERS))
        return msgspec.convert(reply.facts, Snapshot)


def _as_objects(settings: ServerConfig, output: Output, once: bool) -> int:
    from knothole.cli.server_figures import figures

    watch = _Watch(settings)
    while True:
        output.result("status", "", **figures(*watch.next()))
        if once:
            return 0


def _as_table(settings: ServerConfig, once: bool) -> int:
    from rich.console import Console
    from rich.live import Live

    from knothole.cli.server_figures import table

    watch = _Watch(settings)
    console = Console()
    if once or not console.is_terminal:
        console.print(table(*watch.next()))
        return 0
    with Live(table(*watch.next()), console=console, auto_refresh=False, screen=True) as live:
        while True:
            live.update(table(*watch.next()), refresh=True)
