"""A shortcut carried out: where datagrams of one kind go, and how many of them may."""

from __future__ import annotations

from typing import Protocol

from knothole.engine.turn.budget import Budget
from knothole.engine.turn.server_events import Shortcut, ShortcutKey
from knothole.io.outbox import Destination


class Outlet(Protocol):
    """A socket that datagrams leave by, from the arena that they came into.

    What cannot be sent is lost.
    """

    def send_one(self, route: Route) -> None:
        """The one that waits in ``route``. It may go on waiting, in an outbox."""

    def send_burst(self, parts: list[memoryview], size: int, destination: Destination) -> None:
        """Datagrams of ``size`` bytes, the last perhaps shorter."""


class Route:
    """``datagrams`` and their ``octets`` of payload have gone this way since the last report.

    They are taken from ``budget``, and from ``other`` where it leads from one client to another;
    what is beyond that the engine refuses, or has where time has brought more.

    What Departures knows of it is here too, where it is found at once: the first datagram that
    waits (there is none while ``size`` is 0), and of a burst all its ``parts``, with ``room`` for
    so many more.
    """

    __slots__ = (
        *("budget", "channel", "counted", "datagrams", "destination", "expires_at", "key"),
        *("octets", "other", "outlet", "parts", "room", "size", "start"),
    )

    def __init__(
        self,
        key: ShortcutKey,
        shortcut: Shortcut,
        budgets: tuple[Budget, ...],
        outlet: Outlet,
        counted: list[Route],
    ) -> None:
        """It is put into ``counted`` when something passes for the first time after a report."""
        self.key = key
        self.counted = counted
        self.channel = shortcut.channel
        self.expires_at = shortcut.expires_at
        self.budget = budgets[0]
        self.other = budgets[1] if len(budgets) > 1 else None
        self.datagrams = self.octets = 0
        self.outlet = outlet
        self.destination = Destination(shortcut.destination)
        self.start = self.size = self.room = 0
        self.parts: list[memoryview] | None = None

    def admits(self, octets: int, now: float) -> bool:
        """Whether a datagram with so much payload may go this way; it is counted then."""
        budget = self.budget
        if budget.due <= now:
            budget.refill(now)
        if self.expires_at <= now or budget.octets < octets or budget.datagrams < 1:
            return False
        if self.other is not None and not self.other.take(1, octets, now):
            return False
        budget.datagrams -= 1
        budget.octets -= octets
        budget.taken_at = now
        if not self.datagrams:
            self.counted.append(self)
        self.datagrams += 1
        self.octets += octets
        return True
