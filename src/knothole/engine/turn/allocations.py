"""The allocations that a server has, until their ends (RFC 8656 Sections 6 and 8)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from knothole.engine.core import least
from knothole.engine.turn.budget import Budget
from knothole.engine.turn.deadlines import Deadlines
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.mobility import Mobility
from knothole.engine.turn.policy import PeerRules
from knothole.engine.turn.quota import Holder, Limits, Quota
from knothole.engine.turn.relay_pool import RelayPool
from knothole.engine.turn.server_allocation import ServerAllocation
from knothole.engine.turn.server_events import (
    AllocationCreated,
    AllocationEnded,
    CloseRelay,
    EndReason,
    PeersForbidden,
    ServerOutput,
)
from knothole.engine.turn.shortcut import Shortcuts
from knothole.engine.turn.spent_budgets import SpentBudgets, spender
from knothole.engine.turn.tally import Tally
from knothole.wire.address import Address


class Allocations:
    """Keeps allocations, finds them, ends them. What it has to say goes into ``outputs``.

    ``by_five_tuple`` and ``by_relayed`` may be read where a datagram must not cost a call.
    """

    def __init__(self, pool: RelayPool, quota: Quota, outputs: deque[ServerOutput]) -> None:
        self.by_five_tuple: dict[FiveTuple, ServerAllocation] = {}
        self.by_relayed: dict[Address, ServerAllocation] = {}
        self._pool, self._quota, self._outputs = pool, quota, outputs
        self.tally = Tally(self.by_relayed)
        self._deadlines: Deadlines[ServerAllocation] = Deadlines()
        self._spent = SpentBudgets()
        self.on_end: Callable[[ServerAllocation], None] = lambda _: None
        """What else ends with an allocation."""
        self.shortcuts: Shortcuts | None = None
        """What the kernel relays, if it does."""
        self.mobility: Mobility | None = None
        """How allocations follow their clients, if they may."""

    def set_limits(self, limits: Limits, now: float) -> None:
        """Have other ``limits`` count from now on."""
        self._quota.limits = limits
        for allocation in self.by_relayed.values():
            allocation.budget.set_rates(limits.datagrams_per_second, limits.octets_per_second, now)
        self._spent.set_rates(limits.datagrams_per_second, limits.octets_per_second, now)

    def budget(self, holder: Holder, five_tuple: FiveTuple, now: float) -> Budget:
        """For a new allocation: the one that its client has used up before, or else a new one."""
        limits = self._quota.limits
        return self._spent.take_up(spender(holder, five_tuple)) or Budget(
            limits.datagrams_per_second, limits.octets_per_second, now
        )

    def add(self, halves: Sequence[ServerAllocation]) -> None:
        """Keep a new allocation, in one half or two."""
        first = halves[0]
        self.by_five_tuple[first.five_tuple] = first
        if len(halves) == 2:
            halves[0].twin, halves[1].twin = halves[1], halves[0]
        if self.mobility is not None:
            self.mobility.made(first)
        for half in halves:
            maker = half.requester
            self.by_relayed[half.relayed] = half
            self._deadlines.set(half, half.expires_at)
            self._outputs.append(
                AllocationCreated(half.five_tuple, maker.username, maker.owner, half.relayed)
            )

    def refresh(self, allocation: ServerAllocation, lifetime_seconds: int, now: float) -> int:
        """Have it live for so long, unless the credentials end before; the seconds that it has."""
        allocation.lifetime_until = now + lifetime_seconds
        self._set_expiry(allocation)
        if self.shortcuts is not None:
            self.shortcuts.renew(allocation, now)
        return whole_seconds(allocation.expires_at - now)

    def vouch(self, allocation: ServerAllocation, credentials_until: float, now: float) -> None:
        """Its credentials are good until then."""
        if credentials_until != allocation.credentials_until:
            allocation.credentials_until = credentials_until
            self._set_expiry(allocation)
            if self.shortcuts is not None:
                self.shortcuts.renew(allocation, now)

    def used(self, allocation: ServerAllocation, five_tuple: FiveTuple, now: float) -> None:
        """Its client goes on at ``five_tuple``, with data or a permission: a move is complete."""
        mobile = allocation.mobile
        if self.mobility is not None and mobile is not None and mobile.moving_to == five_tuple:
            self.mobility.arrive(allocation, self.shortcuts, now)

    def end(self, allocation: ServerAllocation, reason: EndReason, now: float) -> None:
        """Free all that ``allocation`` held; of a dual one, only that half."""
        twin = allocation.twin
        if twin is None:
            if self.mobility is not None:
                self.mobility.ending(allocation)
            del self.by_five_tuple[allocation.five_tuple]
            whose = spender(allocation.holder, allocation.five_tuple)
            self._spent.keep(allocation.budget, whose, now)
        else:
            for five_tuple in allocation.five_tuples:
                self.by_five_tuple[five_tuple] = twin
            twin.twin = allocation.twin = None
            if self.mobility is not None:
                self.mobility.made(twin)
        del self.by_relayed[allocation.relayed]
        self._deadlines.drop(allocation)
        if self.shortcuts is not None:
            self.shortcuts.end(allocation)
        self.on_end(allocation)
        maker = allocation.requester
        self.release(allocation.relayed, allocation.holder)
        self._outputs.append(
            AllocationEnded(
                allocation.five_tuple,
                maker.username,
                maker.owner,
                allocation.relayed,
                reason,
                allocation.to_peers,
                allocation.to_client,
            )
        )

    def release(self, relayed: Address, holder: Holder) -> None:
        """Have the socket of ``relayed`` closed, and its place in the quotas given back."""
        self._pool.give_back(relayed)
        self._quota.give_back(holder)
        self._outputs.append(CloseRelay(relayed))

    def forbid(self, rules: PeerRules, now: float) -> None:
        """End what ``rules`` do not allow."""
        hosts = {host for each in self.by_relayed.values() for host in each.hosts()}
        forbidden = frozenset(host for host in hosts if rules.host_refusal(host) is not None)
        if not forbidden:
            return
        for allocation in self.by_relayed.values():
            lost = allocation.forbid(forbidden, now)
            if lost:
                five_tuple, relayed = allocation.five_tuple, allocation.relayed
                self._outputs.append(PeersForbidden(five_tuple, relayed, lost))

    def disconnected(self, five_tuple: FiveTuple, now: float) -> None:
        """The stream of ``five_tuple`` is closed, and so is what came by it.

        A client that can come by another one has some time for that.
        """
        allocation = self.by_five_tuple.get(five_tuple)
        if allocation is None:
            return
        if self.mobility is None or allocation.mobile is None:
            for half in allocation.halves:
                self.end(half, EndReason.DISCONNECTED, now)
        elif allocation.mobile.moving_to == five_tuple:
            self.mobility.give_up(allocation)
        elif allocation.mobile.moving_to is not None:
            self.mobility.arrive(allocation, self.shortcuts, now)
        else:
            for half in allocation.halves:
                half.lifetime_until = min(half.lifetime_until, now + self._quota.limits.detached)
                self._set_expiry(half)

    def handle_timeout(self, now: float) -> None:
        for ended in self._deadlines.pop_due(now):
            by_lifetime = ended.lifetime_until <= now
            self.end(ended, EndReason.EXPIRED if by_lifetime else EndReason.CREDENTIALS, now)
        self._spent.handle_timeout(now)

    def next_timeout(self) -> float | None:
        return least(self._deadlines.next(), self._spent.next_timeout())

    def _set_expiry(self, allocation: ServerAllocation) -> None:
        allocation.expires_at = min(allocation.lifetime_until, allocation.credentials_until)
        self._deadlines.set(allocation, allocation.expires_at)


def whole_seconds(seconds: float) -> int:
    """For LIFETIME, in which 0 would say that the allocation is gone."""
    return max(int(seconds), 1)
