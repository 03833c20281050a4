"""The accelerator: the kernel relays what the TURN server's shortcuts say, by an eBPF program.

It decides nothing. The engine says what may pass and until when; here that is joined with what the
machine knows: by which interface a client's or a peer's packets come in and by which they leave.
Where anything is not as it should be, user space relays, as it would without all this.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from knothole.engine.turn.budget import Budget
from knothole.engine.turn.server_events import Shortcut, ShortcutKey
from knothole.io.bpf import calls
from knothole.io.bpf.allowances import Full
from knothole.io.bpf.attach import Attachments
from knothole.io.bpf.layout import Count, Pattern, Treatment
from knothole.io.bpf.object import MalformedObject
from knothole.io.bpf.program import ShortcutProgram
from knothole.io.netlink import AddressEvents
from knothole.io.rtnetlink import Link, RouteNetlink
from knothole.server import loans
from knothole.server.loans import Loans
from knothole.wire.address import Address

Budgets: TypeAlias = tuple[Budget, ...]
"""The one or two that a shortcut takes from."""

REPORT_SECONDS: Final = 1.0  # ours: how far counters of allocations lag behind
# Ours: MTUs change without a word, so each entry's way is looked up anew within that time.
RENEW_SECONDS: Final = 60.0
ENTRIES_A_TURN: Final = (
    100  # ours: some milliseconds, then the event loop's other work has its turn
)

LOOPBACK: Final = 1  # Linux's <net/net_namespace.h>: the first interface of every namespace
_UP: Final = 0x1
_ETHERNET_HEADERS: Final = frozenset({1, 772})  # ARPHRD_ETHER, ARPHRD_LOOPBACK
_GREATEST_MTU: Final = 0xFFFF
_NO_RIGHTS: Final = frozenset({errno.EPERM, errno.EACCES})


class AcceleratorUnavailable(Exception):
    """There is none here; the text says why."""


@dataclass(frozen=True, slots=True)
class AcceleratorStatus:
    """What an operator may want to know. ``packets`` and ``bytes`` (of payload) are totals.

    ``reason`` says why it is off; ``interfaces`` are those that it takes packets from.
    """

    on: bool
    reason: str = ""
    interfaces: tuple[str, ...] = ()
    entries: int = 0
    packets: int = 0
    bytes: int = 0


def make_accelerator(wanted: bool, **options: Any) -> Accelerator | NoAccelerator:
    """The accelerator with these ``options``, or what takes its place and says why."""
    if not wanted:
        return NoAccelerator("switched off")
    try:
        return Accelerator(**options)
    except AcceleratorUnavailable as error:
        return NoAccelerator(str(error))


class NoAccelerator:
    """User space relays everything."""

    is_on = False

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def status(self) -> AcceleratorStatus:
        return AcceleratorStatus(False, self._reason)

    def install(self, key: ShortcutKey, shortcut: Shortcut, budgets: Budgets) -> None:
        """Nothing comes of it."""

    def remove(self, key: ShortcutKey) -> None:
        """Nothing comes of it."""

    def limits_changed(self) -> None:
        """Nothing comes of it."""

    def close(self) -> None:
        """Nothing comes of it."""


class Accelerator:
    """One program with its entries, within a running event loop.

    It is attached to an interface when the first entry needs that.
    """

    def __init__(
        self,
        *,
        port: int,
        relay_hosts: Mapping[str, str],
        machine: Collection[str],
        passed: Callable[[ShortcutKey, Count], object],
        broke: Callable[[str], object],
        links: bool = True,
    ) -> None:
        """Load the program. Raises AcceleratorUnavailable.

        ``port`` is the server's, ``relay_hosts`` has the address of this machine behind the host of
        each relayed address, ``machine`` are all its addresses. ``passed`` is told once a second
        what has gone by an entry, ``broke`` when the kernel takes no more, and why. ``links``: tcx
        links where the kernel has them.
        """
        if any(host != local and host in machine for host, local in relay_hosts.items()):
            raise AcceleratorUnavailable("this machine translates the addresses itself")
        if (refusal := calls.unsupported()) is not None:
            raise AcceleratorUnavailable(refusal)
        self._local = dict(relay_hosts)
        self._passed, self._broke = passed, broke
        self._loop = asyncio.get_running_loop()
        self._broken = ""
        self._packets = self._octets = 0
        self._wanted: dict[ShortcutKey, Shortcut] = {}
        self._budgets: dict[ShortcutKey, Budgets] = {}
        self._known: dict[ShortcutKey, tuple[Pattern, Treatment]] = {}
        self._keys: dict[Pattern, ShortcutKey] = {}
        self._stale: deque[ShortcutKey] = deque()
        self._links: dict[int, Link] = {}
        self._work: asyncio.Handle | None = None
        self._until_renewal = RENEW_SECONDS
        with contextlib.ExitStack() as opened:
            try:
                self._netlink = RouteNetlink()
                opened.callback(self._netlink.close)
                self._program = ShortcutProgram()
                opened.callback(self._program.close)
                self._events = AddressEvents(self._network_changed, routes=True)
                opened.callback(self._events.close)
                self._look_at_links()
            except (OSError, MalformedObject) as error:
                raise AcceleratorUnavailable(_reason(error)) from error
            opened.pop_all()
        self._attachments = Attachments(self._program.descriptor, self._netlink, port, links=links)
        for interface in self._links:
            self._attachments.clean(interface)
        self._loans = Loans(self._program.allowances)
        self._timer = self._loop.call_later(REPORT_SECONDS, self._report)
        self._loan_timer = self._loop.call_later(loans.RENEW_SECONDS, self._renew_loans)

    @property
    def is_on(self) -> bool:
        """Until the kernel refuses something."""
        return not self._broken

    def status(self) -> AcceleratorStatus:
        names = []
        for interface in sorted(self._attachments.interfaces):
            with contextlib.suppress(OSError):
                names.append(socket.if_indextoname(interface))
        return AcceleratorStatus(
            not self._broken,
            self._broken,
            tuple(names),
            len(self._known),
            self._packets,
            self._octets,
        )

    def install(self, key: ShortcutKey, shortcut: Shortcut, budgets: Budgets) -> None:
        """Have the kernel do that, if it can be done."""
        if self._broken:
            return
        before = self._wanted.get(key)
        self._wanted[key] = shortcut
        self._budgets[key] = budgets
        known = self._known.get(key)
        if known is None or before is None or _way(before) != _way(shortcut):
            self._renew(key)
            return
        # The way is known, and looked at anew often enough.
        pattern, treatment = known
        self._put(key, pattern, replace(treatment, expires_at=shortcut.expires_at))

    def remove(self, key: ShortcutKey) -> None:
        """Have the kernel do that no more."""
        self._wanted.pop(key, None)
        self._take_out(key)
        self._budgets.pop(key, None)

    def limits_changed(self) -> None:
        """The budgets have other limits."""
        self._loans.renew(time.monotonic(), every=True)

    def close(self) -> None:
        """Detach everything."""
        self._timer.cancel()
        self._loan_timer.cancel()
        if self._work is not None:
            self._work.cancel()
        self._events.close()
        self._attachments.close()
        self._program.close()
        self._netlink.close()

    # ------------------------------------------------------------------------ entries

    def _renew(self, key: ShortcutKey) -> None:
        found = self._resolve(key, self._wanted[key])
        if found is None:
            self._take_out(key)
        elif found != self._known.get(key):
            self._put(key, *found)

    def _put(self, key: ShortcutKey, pattern: Pattern, treatment: Treatment) -> None:
        budgets, now = self._budgets[key], time.monotonic()
        try:
            self._attachments.attach(treatment.came_by)
            numbers = self._loans.use(key, budgets, now)
            self._program.put(pattern, treatment, numbers)
        except Full:
            if key not in self._known:
                self._loans.leave(key, budgets, now)
            return
        except OSError as error:
            self._break(error)
            return
        self._known[key] = pattern, treatment
        self._keys[pattern] = key

    def _take_out(self, key: ShortcutKey) -> None:
        known = self._known.pop(key, None)
        if known is None:
            return
        del self._keys[known[0]]
        try:
            count = self._program.remove(known[0])
        except OSError as error:
            self._break(error)
        else:
            self._loans.leave(key, self._budgets[key], time.monotonic())
            self._count(key, count)

    def _resolve(self, key: ShortcutKey, shortcut: Shortcut) -> tuple[Pattern, Treatment] | None:
        """In terms of this machine; None when it is for user space."""
        pattern = Pattern(key.source, self._here(key.destination), key.channel)
        source, destination = self._here(shortcut.source), shortcut.destination
        # Only where the answer would leave may it come in: nobody sends in another's name by
        # another interface, as with rp_filter of 1.
        back = self._netlink.route(pattern.destination.host, pattern.source.host)
        out = self._netlink.route(source.host, destination.host)
        if back is None or out is None:
            return None
        came_by = LOOPBACK if back.is_local else back.interface
        # To an address of this machine only loopback leads: elsewhere the kernel discards what
        # comes with its own source address.
        leaves_by = 0 if out.is_local else out.interface
        if not self._is_usable(came_by):
            return None
        if out.is_local:
            if came_by != LOOPBACK:
                return None
            mtu = _GREATEST_MTU
        elif self._is_usable(leaves_by):
            link = self._links[leaves_by]
            mtu = out.mtu or (link.ipv6_mtu if destination.is_ipv6 else link.mtu)
        else:
            return None
        treatment = Treatment(
            source,
            destination,
            shortcut.channel,
            shortcut.expires_at,
            came_by,
            leaves_by,
            min(mtu, _GREATEST_MTU),
            out.next_hop,
        )
        return pattern, treatment

    def _here(self, address: Address) -> Address:
        local = self._local.get(address.host)
        return address if local is None else Address(local, address.port)

    def _is_usable(self, interface: int) -> bool:
        link = self._links.get(interface)
        return link is not None and link.hardware in _ETHERNET_HEADERS and bool(link.flags & _UP)

    def _break(self, error: OSError) -> None:
        """The kernel refuses: user space goes on alone."""
        self._broken = _reason(error)
        self._attachments.close()  # whatever the entries say, nothing comes to them any more
        self._loans.end_all(time.monotonic())
        for kept in (self._known, self._keys, self._wanted, self._budgets, self._stale):
            kept.clear()
        self._broke(self._broken)

    # ------------------------------------------------------------- counters and changes

    def _report(self) -> None:
        self._timer = self._loop.call_later(REPORT_SECONDS, self._report)
        if self._broken:
            return
        try:
            counts = [(self._keys[pattern], count) for pattern, count in self._program.read()]
        except OSError as error:
            self._break(error)
            return
        for key, count in counts:
            self._count(key, count)
        self._until_renewal -= REPORT_SECONDS
        if self._until_renewal <= 0:
            self._until_renewal = RENEW_SECONDS
            self._network_changed()

    def _renew_loans(self) -> None:
        self._loan_timer = self._loop.call_later(loans.RENEW_SECONDS, self._renew_loans)
        self._loans.renew(time.monotonic())

    def _count(self, key: ShortcutKey, count: Count) -> None:
        if count.packets:
            self._packets += count.packets
            self._octets += count.octets
            self._passed(key, count)

    def _network_changed(self) -> None:
        if self._broken:
            return
        try:
            self._look_at_links()
        except OSError as error:
            self._break(error)
            return
        for interface in self._attachments.interfaces - self._links.keys():
            self._attachments.detach(interface)
        self._renew_all()

    def _look_at_links(self) -> None:
        self._links = {link.index: link for link in self._netlink.links()}

    def _renew_all(self) -> None:
        self._stale = deque(self._wanted)
        if self._work is None:
            self._work = self._loop.call_soon(self._renew_some)

    def _renew_some(self) -> None:
        self._work = None
        for _ in range(ENTRIES_A_TURN):
            if not self._stale:  # at the end, or when the kernel has refused one of them
                break
            key = self._stale.popleft()
            if key in self._wanted:
                self._renew(key)
        if self._stale:
            self._work = self._loop.call_soon(self._renew_some)


def _way(shortcut: Shortcut) -> tuple[Address, Address, int]:
    return shortcut.source, shortcut.destination, shortcut.channel


def _reason(error: OSError | MalformedObject) -> str:
    if isinstance(error, OSError) and error.errno in _NO_RIGHTS:
        return "no rights: it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    if isinstance(error, OSError):
        return f"the kernel refuses: {error.strerror}"
    return str(error)
