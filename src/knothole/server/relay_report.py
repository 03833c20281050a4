"""What a relay tells of itself: figures without addresses, and its greatest users by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.server import TurnServer
from knothole.engine.turn.server_events import EndReason
from knothole.engine.turn.tally import Flow, Flows, Usage
from knothole.server.accelerator import Accelerator, NoAccelerator
from knothole.server.bindings import Bindings
from knothole.server.reports import (
    AcceleratorReport,
    AllocationCount,
    AnswerCount,
    FlowReport,
    Report,
    UserReport,
)
from knothole.server.vitals import VitalSigns
from knothole.wire.address import Transport

MOST_USERS: Final = 50  # ours: they travel in one packet
MOST_INTERFACES: Final = 50


class Reporter:
    """Counts what the engine does not, and puts a report together."""

    def __init__(
        self,
        turn: TurnServer,
        bindings: Bindings,
        accelerator: Accelerator | NoAccelerator,
        connections: Collection[FiveTuple],
    ) -> None:
        """``connections`` are those there are now, whenever it is looked."""
        self.turn, self._bindings = turn, bindings
        self._accelerator, self._connections = accelerator, connections
        self._signs = VitalSigns()
        self._ended: Counter[str] = Counter()
        self._connected: Counter[str] = Counter()
        self._usage: dict[str, Usage] = {}
        self._usage_at = 0.0

    def ended(self, reason: EndReason) -> None:
        """An allocation is no more."""
        self._ended[reason.name.lower().replace("_", "-")] += 1

    def connected(self, transport: Transport) -> None:
        """A client has come that way, and has said something."""
        self._connected[transport.value] += 1

    def report(self, users: int, now: float) -> Report:
        """With the ``users`` who have had most relayed since that was asked last."""
        tally, accelerator = self.turn.tally, self._accelerator.status()
        return Report(
            vitals=self._signs.read(),
            is_draining=self.turn.is_draining,
            allocations=[
                AllocationCount(transport.value, "ipv6" if is_ipv6 else "ipv4", count)
                for (transport, is_ipv6), count in tally.kinds().items()
            ],
            ended=dict(self._ended),
            flows=[
                *_flows("user-space", tally.by_us),
                *_flows("accelerator", tally.by_kernel),
                *_flows("tcp-peers", tally.by_tcp),
            ],
            dropped={reason.value: count for reason, count in tally.dropped.items()},
            answers=[
                AnswerCount(method, code, count)
                for (method, code), count in sorted(tally.answers.items())
            ],
            binding_requests=self._bindings.requests,
            connections=dict(Counter(each.transport.value for each in self._connections)),
            connected=dict(self._connected),
            accelerator=AcceleratorReport(
                accelerator.on,
                accelerator.reason,
                list(accelerator.interfaces[:MOST_INTERFACES]),
                accelerator.entries,
            ),
            users=self._users(min(users, MOST_USERS), now) if users else [],
        )

    def stop(self) -> None:
        self._signs.stop()

    def _users(self, most: int, now: float) -> list[UserReport]:
        usage = self.turn.tally.usage()
        passed = max(now - self._usage_at, 0.001)
        found = [
            UserReport(
                owner.removeprefix(":"),
                each.allocations,
                _rate(each.to_peers, self._before(owner).to_peers, passed),
                _rate(each.to_clients, self._before(owner).to_clients, passed),
            )
            for owner, each in usage.items()
        ]
        self._usage, self._usage_at = usage, now
        found.sort(key=lambda user: user.to_peers + user.to_clients, reverse=True)
        return found[:most]

    def _before(self, owner: str) -> Usage:
        return self._usage.get(owner, Usage(0, 0, 0))


def _rate(now: int, before: int, seconds: float) -> float:
    """Octets a second; an allocation that has ended takes its octets with it."""
    return max(0, now - before) / seconds


def _flows(path: str, flows: Flows) -> list[FlowReport]:
    def one(direction: str, flow: Flow) -> FlowReport:
        return FlowReport(path, direction, flow.datagrams, flow.octets)

    return [one("to-peers", flows.to_peers), one("to-clients", flows.to_clients)]
