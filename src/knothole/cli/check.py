"""``knothole check``"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Final

from cyclopts import Parameter
from msgspec import structs

from knothole.cli.asking import facts, find_server
from knothole.cli.asking import lifetime as measure_lifetime
from knothole.cli.nat import Row
from knothole.cli.output import Output
from knothole.cli.session import run
from knothole.cli.stun import show_rows
from knothole.engine.endpoint.endpoint import Endpoint
from knothole.engine.portmap.mapping import MappingAttempt, PortMapping
from knothole.engine.predict.budget import Budget
from knothole.engine.predict.plan import PlanKind, Shape, choose_plan, shape_of
from knothole.engine.stun.behaviour import NatBehaviour
from knothole.peer.peer import Peer
from knothole.peer.profile import Profile
from knothole.wire.nat import (
    Dependence,
    NatReport,
    Preserved,
    Random,
    Sequential,
)
from knothole.wire.signal.plans import PlanTerms

SERVER_SECONDS: Final = 6.0  # ours: as `knothole status`
DISCOVERY_SECONDS: Final = 6.0  # ours: a survey takes 3 s, and begins 1 s late without UDP
LOOK_SECONDS: Final = 0.05

_EIM: Final = Dependence.ENDPOINT_INDEPENDENT
_APD: Final = Dependence.ADDRESS_AND_PORT_DEPENDENT
PEERS: Final = (
    ("no NAT", NatReport(translated=False, mapping=_EIM, filtering=_EIM)),
    ("a firewall without NAT", NatReport(translated=False, mapping=_EIM, filtering=_APD)),
    ("a NAT that lets everybody in", NatReport(translated=True, mapping=_EIM, filtering=_EIM)),
    (
        "a NAT as most have it",
        NatReport(translated=True, mapping=_EIM, filtering=_APD, ports=Preserved()),
    ),
    (
        "a NAT with ports in sequence",
        NatReport(translated=True, mapping=_APD, filtering=_APD, ports=Sequential(1)),
    ),
    (
        "a NAT with random ports",
        NatReport(translated=True, mapping=_APD, filtering=_APD, ports=Random(1024, 65535)),
    ),
    (
        "a NAT with random ports of 256",
        NatReport(translated=True, mapping=_APD, filtering=_APD, ports=Random(40000, 40255)),
    ),
)
"""Kinds of peers, by what stands in front of them."""

NOT_SURE: Final = "not known, tried"
MEANS: Final = {
    PlanKind.CHECKS: "ordinary checks",
    PlanKind.BRACKET: "a check between two samples",
    PlanKind.AIM: "aiming at the next ports",
    PlanKind.BIRTHDAY: "many holes and many probes",
    PlanKind.MEETING: "many probes from both ends",
    PlanKind.RELAY: "the relay",
}


def check(
    *,
    server: Annotated[str, Parameter(show_default=False)] = "",
    lifetime: bool = False,
    json: bool = False,
) -> int:
    """What your NAT does, whom you reach directly, what would help.

    Asks the server you have joined, in 3 s; with --server no profile is needed. The exit code is
    1 when no server is reached over UDP.

    Example: knothole check

    Parameters
    ----------
    server
        Ask this STUN server instead: stun:HOST or stun:HOST:PORT.
    lifetime
        Measure how long an idle mapping lives, too: up to five minutes.
    json
        One JSON object per line.
    """
    output = Output(json=json)
    work = _from_server(output, server, lifetime) if server else _joined(output, lifetime)
    return run(work)


async def _from_server(output: Output, text: str, lifetime: bool) -> int:
    ways = await find_server(text)
    seen, report = await facts(ways)
    report = await _with_lifetime(output, seen, report, lifetime)
    return await _tell(output, seen, report, Budget(), str(ways[0].server))


async def _joined(output: Output, lifetime: bool) -> int:
    profile = Profile.load()
    async with Peer(profile, callable=False, timeout=SERVER_SECONDS) as peer:
        endpoint = peer.endpoint
        await until(lambda: endpoint.discovery.complete, DISCOVERY_SECONDS)
        seen, report = endpoint.discovery.behaviour, endpoint.nat_report
        budget = endpoint.way_out.ledger.budget
        if seen is None or report is None:
            seen, report = _nothing_seen(endpoint), NatReport(udp=False)
        mapper = endpoint.gatherer.mapper
        report = await _with_lifetime(output, seen, report, lifetime)
        if any(each.external.host in seen.hosts for each in mapper.mappings):
            report = structs.replace(report, levels=1)  # the gateway's address is the one seen
        row = _port_mapping(mapper.mappings, mapper.attempts)
        return await _tell(output, seen, report, budget, profile.server.host, row)


async def _with_lifetime(
    output: Output, seen: NatBehaviour, report: NatReport, wanted: bool
) -> NatReport:
    if not wanted or not report.udp:
        return report
    if not output.json:
        output.note("", "Measuring how long a mapping lives: up to five minutes ...")
    seconds = await measure_lifetime(seen.base.host, next(iter(seen.mapped)))
    return structs.replace(report, lifetime_seconds=seconds)


def _port_mapping(mappings: Sequence[PortMapping], attempts: Sequence[MappingAttempt]) -> Row:
    """What the gateway does for us when it is asked."""
    tried = ", ".join(
        f"{each.protocol.value} at {each.gateway}: {each.detail or each.progress.value}"
        for each in attempts
    )
    best = min(mappings, key=lambda mapping: not mapping.is_public, default=None)
    words, value = "none: no gateway grants one", None
    if best is not None:
        words, value = f"{best.external} by {best.protocol.value}", str(best.external)
        if not best.is_public:
            words, value = f"{words}, but that is no public address", None
    return Row("port_mapping", "Port mapping", words, value, tried or "nobody to ask")


async def until(holds: Callable[[], bool], seconds: float) -> None:
    """Wait until it holds, at most so long."""
    for _ in range(round(seconds / LOOK_SECONDS)):
        if holds():
            return
        await asyncio.sleep(LOOK_SECONDS)


def _nothing_seen(endpoint: Endpoint) -> NatBehaviour:
    return NatBehaviour(endpoint.gatherer.candidates[0].base)


async def _tell(
    output: Output,
    seen: NatBehaviour,
    report: NatReport,
    budget: Budget,
    server: str,
    port_mapping: Row | None = None,
) -> int:
    await show_rows(output, seen, report, () if port_mapping is None else (port_mapping,))
    if port_mapping is not None and port_mapping.value is not None:
        report = structs.replace(
            report, mapping=_EIM, filtering=_EIM
        )  # what the mapping amounts to
    for kind, theirs in PEERS:
        _reach(output, kind, report, theirs, budget)
    for text in advice(report, server):
        output.result("advice", f"{'Better':<14}{text}", text=text)
    return 0 if report.udp else 1


def _reach(output: Output, kind: str, ours: NatReport, theirs: NatReport, budget: Budget) -> None:
    """Whether somebody behind such a NAT is reached directly, and how."""
    plan = choose_plan(
        PlanTerms(ours, budget.probes, budget.sockets),
        PlanTerms(theirs, budget.probes, budget.sockets),
    )
    direct: bool | None = plan.kind is not PlanKind.RELAY
    why, means = plan.reason, MEANS[plan.kind]
    if not ours.udp:
        direct, why = False, "UDP does not get out"
    elif shape_of(ours) is Shape.UNKNOWN:
        direct = None
    word = {True: "direct", False: "relayed", None: NOT_SURE}[direct]
    odds = "" if plan.odds is None else f", {plan.odds:.0%}"
    output.result(
        "reach",
        f"{'To':<14}{kind}: {word}{'' if direct is False else f' by {means}{odds}'}",
        kind=kind,
        direct=direct,
        plan=plan.kind.value,
        odds=None if plan.odds is None else round(plan.odds, 4),
        why=why,
    )
    if not output.json:
        output.result("", f"{'':<14}  {why}")


def advice(report: NatReport, server: str) -> Iterator[str]:
    """What would make more lines direct, most useful first."""
    if not report.udp:
        yield f"let UDP out, to port 3478 of {server} at least: lines go over TCP until then"
        return
    permissive = report.filtering is _EIM
    if report.translated and not permissive:
        yield (
            "enable UPnP, PCP or NAT-PMP on the router: a port mapping lets everybody reach you "
            "directly"
        )
    if report.translated is False and report.filtering not in (None, _EIM):
        yield "the firewall could let UDP in to this computer"
    if isinstance(report.ports, Sequential | Random) and report.mapping is not _EIM:
        yield (
            "a router that keeps one port for all destinations (RFC 4787, REQ-1) is reached by "
            "everybody whose ports can be told"
        )
    if report.filtering_ipv6 is None:
        yield "IPv6: where both ends have it there is no NAT at all"
    if report.mapping is None or report.filtering is None:
        yield "a server with a second IP address could tell more about your NAT"
