"""What may be relayed without this engine seeing it: by the kernel, where io has it do so.

An entry says what one kind of packet becomes, and until when: exactly what :class:`ServerData`
would do with it. The kernel never decides anything, and what it has no entry for comes here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple

from knothole.engine.turn.budget import Budget
from knothole.engine.turn.channel import Channel
from knothole.engine.turn.deadlines import Deadlines
from knothole.engine.turn.policy import PeerRules
from knothole.engine.turn.server_allocation import ServerAllocation
from knothole.engine.turn.server_events import (
    InstallShortcut,
    RemoveShortcut,
    ServerOutput,
    Shortcut,
    ShortcutKey,
)
from knothole.engine.turn.tally import Flows
from knothole.wire.address import Address, Transport

# Ours: an entry that has expired lets nothing pass, and what has passed is still to be reported.
REMOVED_AFTER: Final = 5.0


class _Entry(NamedTuple):
    """An installed one: whose data to peers it carries, and whose data to the client."""

    shortcut: Shortcut
    sender: ServerAllocation | None
    receiver: ServerAllocation | None

    @property
    def allocations(self) -> tuple[ServerAllocation, ...]:
        """The one or two that it belongs to."""
        return tuple(each for each in self[1:] if each is not None)

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Of which every datagram is taken: of the same one twice, when it comes and goes there."""
        return tuple(each.budget for each in self.allocations)


class Shortcuts:
    """All of them. Called after whatever changed an allocation; outputs say what io is to do.

    Only for clients over UDP and for channels, between IPv4 and IPv6 too. Of two clients of this
    server that have channels to each other's relayed addresses, ChannelData of the one becomes
    ChannelData of the other.

    Each names the budgets of its allocations, and io takes from them whatever it lets pass. There
    is one budget of an allocation, however many shortcuts it has and whatever else it sends: the
    limit holds for all of that together, and at every moment. That is why io is handed the budgets
    and not a part for each shortcut, which would be too little for the one that is used, or in sum
    too much.
    """

    def __init__(
        self,
        by_relayed: Mapping[Address, ServerAllocation],
        rules: PeerRules,
        outputs: deque[ServerOutput],
    ) -> None:
        self._by_relayed, self._rules, self._outputs = by_relayed, rules, outputs
        self._entries: dict[ShortcutKey, _Entry] = {}
        self._of: dict[ServerAllocation, set[ShortcutKey]] = {}
        self._deadlines: Deadlines[ShortcutKey] = Deadlines()

    def obey(self, rules: PeerRules, now: float) -> None:
        """Have ``rules`` count from now on, for what there is, too."""
        self._rules = rules
        for allocation in self._by_relayed.values():
            self.renew(allocation, now)

    def renew(
        self, allocation: ServerAllocation, now: float, hosts: Collection[str] | None = None
    ) -> None:
        """Something of ``allocation`` has changed; only with these ``hosts``, if they are given."""
        for channel in allocation.channels.by_peer.values():
            if hosts is None or channel.peer.host in hosts:
                self._renew_channel(allocation, channel, now)
                other = self._by_relayed.get(channel.peer)
                back = None if other is None else other.channels.by_peer.get(allocation.relayed)
                if other is not None and back is not None:
                    self._renew_channel(other, back, now)

    def end(self, allocation: ServerAllocation) -> None:
        """It is over, and so is all that leads from it or to it."""
        for key in tuple(self._of.get(allocation, ())):
            self._remove(key)

    def passed(self, key: ShortcutKey, datagrams: int, octets: int, flows: Flows) -> None:
        """io reports that so much payload went by this entry; it is added to ``flows``, too."""
        entry = self._entries.get(key)
        if entry is None:  # it was taken out, and this is what had passed before
            (flows.to_peers if key.channel else flows.to_clients).add(datagrams, octets)
            return
        if entry.sender is not None:
            entry.sender.to_peers += octets
            flows.to_peers.add(datagrams, octets)
        if entry.receiver is not None:
            entry.receiver.to_client += octets
            flows.to_clients.add(datagrams, octets)

    def handle_timeout(self, now: float) -> None:
        for key in self._deadlines.pop_due(now):
            self._remove(key)

    def next_timeout(self) -> float | None:
        return self._deadlines.next()

    def _renew_channel(self, allocation: ServerAllocation, channel: Channel, now: float) -> None:
        found = dict(self._derive(allocation, channel, now))
        for key in _keys(allocation, channel):
            entry = found.get(key)
            if entry is None:
                self._remove(key)
            elif entry != self._entries.get(key):
                self._install(key, entry)

    def _derive(
        self, allocation: ServerAllocation, channel: Channel, now: float
    ) -> Iterator[tuple[ShortcutKey, _Entry]]:
        transport, client, server = allocation.five_tuple
        peer, relayed = channel.peer, allocation.relayed
        expires_at = _expires_at(allocation, channel)
        if transport is not Transport.UDP or expires_at <= now:
            return
        outward, inward = _keys(allocation, channel)
        other = self._by_relayed.get(peer)
        if other is not None:
            back = other.channels.by_peer.get(relayed)
            if back is None or other.five_tuple.transport is not Transport.UDP:
                return
            expires_at = min(expires_at, _expires_at(other, back))
            _, to, source = other.five_tuple
            if expires_at > now:
                shortcut = Shortcut(source, to, back.number, expires_at)
                yield outward, _Entry(shortcut, allocation, other)
            return
        # What is sent to a relay host stays inside, and nothing comes from one by a socket.
        if self._rules.is_relay_host(peer.host):
            return
        if self._rules.refusal(peer) is None:
            shortcut = Shortcut(relayed, peer, 0, expires_at)
            yield outward, _Entry(shortcut, allocation, None)
            shortcut = Shortcut(server, client, channel.number, expires_at)
            yield inward, _Entry(shortcut, None, allocation)

    def _install(self, key: ShortcutKey, entry: _Entry) -> None:
        before = self._entries.get(key)
        if before is not None and before[1:] != entry[1:]:
            self._remove(key)
        self._entries[key] = entry
        for allocation in entry.allocations:
            self._of.setdefault(allocation, set()).add(key)
        self._deadlines.set(key, entry.shortcut.expires_at + REMOVED_AFTER)
        self._outputs.append(InstallShortcut(key, entry.shortcut, entry.budgets))

    def _remove(self, key: ShortcutKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._deadlines.drop(key)
        for allocation in set(entry.allocations):  # one, when a client relays to itself
            keys = self._of[allocation]
            keys.discard(key)
            if not keys:
                del self._of[allocation]
        self._outputs.append(RemoveShortcut(key))


def _keys(allocation: ServerAllocation, channel: Channel) -> tuple[ShortcutKey, ShortcutKey]:
    """From the client to the peer, and from the peer to the client."""
    _, client, server = allocation.five_tuple
    outward = ShortcutKey(client, server, channel.number)
    return outward, ShortcutKey(channel.peer, allocation.relayed, 0)


def _expires_at(allocation: ServerAllocation, channel: Channel) -> float:
    permitted_until = allocation.permissions.expires_at.get(channel.peer.host, 0.0)
    return min(allocation.expires_at, channel.expires_at, permitted_until)
