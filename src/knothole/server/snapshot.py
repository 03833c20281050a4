"""How the whole server is at one moment: what `knothole server status` shows and metrics count."""

from __future__ import annotations

import msgspec

from knothole.server.reports import Report
from knothole.server.vitals import Vitals


class ListenerReport(msgspec.Struct, frozen=True):
    """UDP ports, and from where they were reached so far: "outside", "network" or "" (not yet)."""

    ports: str
    reached: str


class SwitchboardReport(msgspec.Struct, frozen=True):
    """Devices that are registered, calls that ring or go on, WebSockets that are open."""

    sessions: int
    calls: int
    connections: int


class Snapshot(msgspec.Struct, frozen=True):
    """``relays`` has one report for each relay process that has answered in time, of so many
    ``relay_processes``; ``switchboard`` is None where there is none."""

    version: str
    is_draining: bool
    vitals: Vitals
    switchboard: SwitchboardReport | None
    listeners: list[ListenerReport]
    relay_processes: int
    relays: list[Report]

    @property
    def is_healthy(self) -> bool:
        """Every process has answered, and new clients are welcome."""
        return len(self.relays) == self.relay_processes and not self.is_draining
