"""The birthday with real programs across NATs of the kernel, watched at both routers.

The programs find out by themselves how large a pool is, some of it after a scan has begun, and take
it for larger than it is. What each run had to expect follows from what both ends had on record, and
from what the NAT really has. NATs with random ports forget all mappings before each run: those of
the run before would still let probes in, to sockets that are gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from knothole.engine.endpoint.history import PoolKnown
from knothole.engine.predict.plan import crowd, holes_of
from knothole.lab.bench.birthday import ORDINARY, Case, compare, terms_for
from knothole.lab.bench.birthday_theory import Aimer, Meeting, Pool, Scan
from knothole.lab.bench.curve_svg import Curve
from knothole.lab.bench.probes import PUBLIC, Measured, Probes, is_probe
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.nat import small_pool
from knothole.lab.netns.packet import Packet
from knothole.lab.programs import KnotholeCommands
from knothole.lab.setting import Setting
from knothole.lab.trial import Trial
from knothole.wire.stun import looks_like_stun

_WORDS: Final = {64512: "random", 2048: "pool-2048", 256: "pool-256"}
Steps: TypeAlias = Sequence[PoolKnown]
_SETTING: Final = Setting(line=LineSettings(one_way_seconds=0.010))


def curve_in_namespaces(case: Case, runs: int) -> Curve:
    """Alice calls Bob so many times; the measured share of hits over the theory."""
    varying = _WORDS[case.size]
    random_ends = ("alice", "bob") if case.both else ("alice",)
    pairs: list[tuple[Measured, Scan | Meeting]] = []
    with Trial((varying, varying if case.both else "linux"), KnotholeCommands(), _SETTING) as trial:
        for _ in range(runs):
            for name in random_ends:
                trial.lab.restart_nat(name)
            with trial.lab.capture("alice", "bob") as capture:
                trial.run()
                seen = measure(capture.stop(), both=case.both)
            known = _known(trial, "alice"), _known(trial, "bob")
            pools = [_pool(trial, name, case) for name in random_ends]
            expected = meeting_of(known, pools) if case.both else scan_of(known, seen, pools[0])
            pairs.append((seen, expected))
    return compare(f"{case.name}, kernel NATs", pairs)


def scan_of(known: tuple[Steps, Steps], seen: Measured, pool: Pool) -> Scan:
    """What Bob's scan of Alice's ``pool`` had to expect, by what she and he had on record.

    A hit ends the attempt, also before Bob is told of a smaller pool. When he would have been is
    known all the same: Alice's word goes the same way as the one that starts the scan, so as many
    probes later as she had sent when she knew. Before the scan the probes are ordinary checks, to
    ports that a server has seen, which belong to the pool.
    """
    alice, bob = known
    ours = [step for step in alice if step.ours]
    theirs = [step for step in bob if not step.ours]
    if theirs and ours and _ports(ours[-1]) != _ports(theirs[-1]):
        theirs.append(ours[-1])
    taken_for = [(seen.before + step.probes, _ports(step)) for step in theirs]
    if seen.before:
        taken_for.insert(0, (0, pool))
    most = 0
    for step in ours:
        wanted = holes_of(terms_for(_ports(step)))
        most = max(step.probes, min(most, wanted)) if most else wanted
    return Scan(tuple(taken_for), pool, seen.holes, most + ORDINARY, seen.pace)


def meeting_of(known: tuple[Steps, Steps], pools: Sequence[Pool]) -> Meeting:
    """What two ends with these ``pools`` had to expect who aim at each other's, by what they had on
    record."""
    ends = []
    for steps, pool in zip(known, pools, strict=True):
        ours = [step for step in steps if step.ours]
        theirs = tuple((step.probes, _ports(step)) for step in steps if not step.ours)
        many = crowd(terms_for(_ports(ours[0]))) if ours else 1
        ends.append(Aimer(theirs, pool, many))
    return Meeting((ends[0], ends[1]))


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


def _pool(trial: Trial, name: str, case: Case) -> Pool:
    """What that client's NAT chooses from now."""
    is_small = _WORDS[case.size] != "random"
    return small_pool(case.size, trial.lab.router(name).wan) if is_small else case.pool


def _known(trial: Trial, name: str) -> list[PoolKnown]:
    history = trial.history(name)
    steps = () if history is None else history.steps
    return [noted.step for noted in steps if isinstance(noted.step, PoolKnown)]


def _ports(step: PoolKnown) -> Pool:
    return step.first, step.last
