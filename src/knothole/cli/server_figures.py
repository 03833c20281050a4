"""What two looks at a server say: as facts for a program, and as a table for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from knothole.cli.shown import shown
from knothole.server.reports import UserReport
from knothole.server.snapshot import Snapshot

Key = tuple[str, str]

NAME_WIDTH: Final = 31  # ours: with the figures behind it that fills 80 columns


def figures(now: Snapshot, before: Snapshot, seconds: float) -> dict[str, Any]:
    """The facts of the event ``status`` (docs/cli.md)."""
    rates = _rates(now, before, seconds)
    return {
        "version": now.version,
        "healthy": now.is_healthy,
        "draining": now.is_draining,
        "uptime_seconds": round(now.vitals.uptime_seconds, 1),
        "processes": [
            {
                "process": name,
                "memory_bytes": vitals.memory_bytes,
                "loop_lag_seconds": round(vitals.loop_lag_seconds, 6),
            }
            for name, vitals in _processes(now)
        ],
        "sessions": now.switchboard and now.switchboard.sessions,
        "calls": now.switchboard and now.switchboard.calls,
        "listeners": [{"ports": each.ports, "reached": each.reached} for each in now.listeners],
        "accelerator": {"on": _accelerated(now), "why": _why_not(now)},
        "allocations": sum(_allocations(now).values()),
        "allocations_by": [
            {"transport": transport, "family": family, "count": count}
            for (transport, family), count in sorted(_allocations(now).items())
        ],
        "packets_per_second": round(sum(packets for packets, _ in rates.values()), 1),
        "bits_per_second": round(sum(bits for _, bits in rates.values())),
        "relayed": [
            {
                "path": path,
                "direction": direction,
                "packets_per_second": round(rates[path, direction][0], 1),
                "bits_per_second": round(rates[path, direction][1]),
                "packets": packets,
                "bytes": octets,
            }
            for (path, direction), (packets, octets) in _relayed(now).items()
        ],
        "dropped": dict(sum((Counter(relay.dropped) for relay in now.relays), Counter())),
        "requests": [
            {"method": method, "code": code, "count": count}
            for (method, code), count in _requests(now).items()
        ],
        "users": [
            {
                "name": user.name,
                "allocations": user.allocations,
                "bits_per_second": round(8 * (user.to_peers + user.to_clients)),
            }
            for user in _users(now)
        ],
    }


def table(now: Snapshot, before: Snapshot, seconds: float) -> RenderableType:
    """All of it on one screen."""
    parts: list[RenderableType] = [_head(now), "", _relayed_table(now, before, seconds)]
    if users := _users(now):
        parts += ["", _users_table(users)]
    return Group(*parts)


def _head(now: Snapshot) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for heading, words in _lines(now):
        grid.add_row(heading, Text(words))
    return grid


def _lines(now: Snapshot) -> Iterator[tuple[str, str]]:
    state = "draining" if now.is_draining else "ok" if now.is_healthy else "a relay is silent"
    yield "Server", f"{state}, up {_duration(now.vitals.uptime_seconds)}, knothole {now.version}"
    yield (
        "Processes",
        "; ".join(
            f"{name} {vitals.memory_bytes / 1e6:.0f} MB, {vitals.loop_lag_seconds:.3f} s late"
            for name, vitals in _processes(now)
        ),
    )
    if now.switchboard is not None:
        here = now.switchboard
        yield "Switchboard", f"{here.sessions} devices, {here.calls} calls"
    words = {"": "not reached yet", "network": "reached from a private network"}
    for number, each in enumerate(now.listeners):
        heading = "" if number else "Listeners"
        yield heading, f"{each.ports}: {words.get(each.reached, 'reached from outside')}"
    entries = sum(relay.accelerator.entries for relay in now.relays)
    interfaces = sorted({name for relay in now.relays for name in relay.accelerator.interfaces})
    on = f"on, {entries} entries" + "".join(f", {name}" for name in interfaces)
    yield "Accelerator", on if _accelerated(now) else f"off: {_why_not(now)}"
    kinds = ", ".join(
        f"{transport} {family} {count}"
        for (transport, family), count in sorted(_allocations(now).items())
    )
    total = sum(_allocations(now).values())
    yield "Allocations", f"{total}" + (f" ({kinds})" if kinds else "")
    dropped = sum((Counter(relay.dropped) for relay in now.relays), Counter[str]())
    yield "Dropped", ", ".join(f"{why} {n}" for why, n in dropped.most_common(6)) or "nothing"
    refused = [f"{m} {code} {n}" for (m, code), n in _requests(now).items() if code]
    yield "Refused", ", ".join(refused[:6]) or "nothing"


def _relayed_table(now: Snapshot, before: Snapshot, seconds: float) -> Table:
    rates = _rates(now, before, seconds)
    shape = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    shape.add_column("Relayed", no_wrap=True)
    for heading in ("packets/s", "bit/s", "packets", "bytes"):
        shape.add_column(heading, justify="right", no_wrap=True)
    for (path, direction), (packets, octets) in _relayed(now).items():
        per_second, bits = rates[path, direction]
        shape.add_row(
            f"{direction.replace('-', ' ')}, {path.replace('-', ' ')}",
            f"{per_second:,.0f}",
            _scaled(bits),
            f"{packets:,}",
            _scaled(octets),
        )
    return shape


def _users_table(users: list[UserReport]) -> Table:
    shape = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    shape.add_column("User", overflow="ellipsis", no_wrap=True, max_width=NAME_WIDTH)
    for heading in ("allocations", "bit/s to peers", "bit/s to clients"):
        shape.add_column(heading, justify="right", no_wrap=True)
    for user in users:
        rates = _scaled(8 * user.to_peers), _scaled(8 * user.to_clients)
        shape.add_row(Text(shown(user.name)), str(user.allocations), *rates)
    return shape


def _processes(now: Snapshot) -> list[tuple[str, Any]]:
    return [("rendezvous", now.vitals), *(("relay", relay.vitals) for relay in now.relays)]


def _allocations(now: Snapshot) -> Counter[Key]:
    found: Counter[Key] = Counter()
    for relay in now.relays:
        for each in relay.allocations:
            found[each.transport, each.family] += each.count
    return +found


def _requests(now: Snapshot) -> dict[tuple[str, int], int]:
    found: Counter[tuple[str, int]] = Counter()
    for relay in now.relays:
        for each in relay.answers:
            found[each.method, each.code] += each.count
    return dict(found.most_common())


def _relayed(now: Snapshot) -> dict[Key, tuple[int, int]]:
    found: dict[Key, tuple[int, int]] = {}
    for relay in now.relays:
        for flow in relay.flows:
            packets, octets = found.get((flow.path, flow.direction), (0, 0))
            key = flow.path, flow.direction
            found[key] = packets + flow.datagrams, octets + flow.octets
    return found


def _rates(now: Snapshot, before: Snapshot, seconds: float) -> dict[Key, tuple[float, float]]:
    """Packets and bits a second; a relay that was silent has passed nothing as far as we know."""
    earlier = _relayed(before)
    rates = {}
    for key, (packets, octets) in _relayed(now).items():
        packets_before, octets_before = earlier.get(key, (packets, octets))
        rates[key] = (
            max(0, packets - packets_before) / seconds,
            8 * max(0, octets - octets_before) / seconds,
        )
    return rates


def _users(now: Snapshot) -> list[UserReport]:
    """Of all processes together: one user's allocations may be in several."""
    found: dict[str, UserReport] = {}
    for user in (user for relay in now.relays for user in relay.users):
        before = found.get(user.name, UserReport(user.name, 0, 0.0, 0.0))
        found[user.name] = UserReport(
            user.name,
            before.allocations + user.allocations,
            before.to_peers + user.to_peers,
            before.to_clients + user.to_clients,
        )
    return sorted(found.values(), key=lambda user: -(user.to_peers + user.to_clients))[:10]


def _accelerated(now: Snapshot) -> bool:
    return any(relay.accelerator.on for relay in now.relays)


def _why_not(now: Snapshot) -> str:
    reasons = (relay.accelerator.reason for relay in now.relays if not relay.accelerator.on)
    return next(reasons, "")


def _scaled(number: float) -> str:
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.0f}" if not unit else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} T"


def _duration(seconds: float) -> str:
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days:.0f} d {hours % 24:.0f} h"
    if hours:
        return f"{hours:.0f} h {minutes % 60:.0f} min"
    return f"{minutes:.0f} min" if minutes else f"{seconds:.0f} s"
