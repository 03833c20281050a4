"""The birthday with real programs across NATs of the kernel, watched at both routers.

The programs find out by themselves how large the pool is. They may take it for larger than it is,
and then probe ports that nobody has; the theory is that for what they took it for, run by run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from knothole.lab.bench.birthday import Case, compare, theory
from knothole.lab.bench.curve_svg import Curve
from knothole.lab.bench.probes import PUBLIC, Measured, Probes, is_probe
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.packet import Packet
from knothole.lab.programs import KnotholeCommands
from knothole.lab.setting import Setting
from knothole.lab.trial import Trial
from knothole.wire.stun import looks_like_stun

_WORDS: Final = {64512: "random", 2048: "pool-2048", 256: "pool-256"}
_POOL: Final = re.compile(r"a random port of (\d+) |, out of (\d+) ")
_SETTING: Final = Setting(line=LineSettings(one_way_seconds=0.010))


def curve_in_namespaces(case: Case, runs: int) -> Curve:
    """Alice calls Bob so many times; the measured share of hits over the theory."""
    varying = _WORDS[case.size]
    measured: list[tuple[Case, Measured]] = []
    with Trial((varying, varying if case.both else "linux"), KnotholeCommands(), _SETTING) as trial:
        for _ in range(runs):
            with trial.lab.capture("alice", "bob") as capture:
                trial.run()
                seen = measure(capture.stop(), both=case.both)
            size = _pool_taken_for(trial.why("alice")) or case.size
            measured.append((replace(case, pool=(1, size)), seen))
    leads = [run.lead for _, run in measured if run.lead is not None]
    lead = round(sum(leads) / len(leads)) if leads else 0
    sizes = Counter(taken for taken, _ in measured)

    def expect(probes: int) -> float:
        chances = (theory(taken, lead, probes) * count for taken, count in sizes.items())
        return sum(chances) / runs

    name = f"{case.name}, kernel NATs"
    return compare(name, [run for _, run in measured], expect)


def measure(packets: Iterable[Packet], *, both: bool) -> Measured:
    """One run, from what was captured at both sides of both routers in order of time."""
    checks = [
        packet
        for packet in packets
        if packet.protocol == "udp"
        and {packet.source.host, packet.destination.host} & PUBLIC.keys()
        and looks_like_stun(packet.payload)
    ]
    from_bob = Counter(
        packet.source.port
        for packet in checks
        if _left(packet) == "bob" and is_probe(packet.payload)
    )
    bob_port = from_bob.most_common(1)[0][0] if from_bob else 0
    probes = Probes(both=both, bob_port=bob_port)
    for packet in checks:
        seen = packet.seen
        if name := _left(packet):
            ends = packet.source, packet.destination
            probes.sent(name, packet.seconds, *ends, packet.payload)
        elif seen.interface == "wan" and seen.outgoing and seen.place == "alice-nat":
            probes.opened(packet.seconds, packet.source.port, packet.destination.port)
        elif seen.interface == "lan" and seen.outgoing and packet.source.host in PUBLIC:
            probes.came_in(packet.seconds, packet.payload)
    return probes.measured()


def _left(packet: Packet) -> str:
    """Whose computer a packet has just left, as its router sees it; "" where it is elsewhere."""
    seen = packet.seen
    leaves = seen.interface == "lan" and not seen.outgoing and packet.destination.host in PUBLIC
    return seen.place.removesuffix("-nat") if leaves else ""


def _pool_taken_for(why: str) -> int | None:
    """By the plan of the newest line, which is the last one in the file."""
    found = [*_POOL.finditer(why)]
    return int(found[-1][1] or found[-1][2]) if found else None
