"""``knothole check``"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Annotated, Final

from cyclopts import Parameter

from knothole.cli.asking import find_server, survey
from knothole.cli.output import Output
from knothole.cli.session import run
from knothole.cli.stun import show_rows
from knothole.engine.endpoint.endpoint import Endpoint
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
    json: bool = False,
) -> int:
    """What your NAT does, whom you reach directly, what would help.

    Asks the server you have joined, in 3 s; with --server no profile is needed. The exit code is
    1 when the server cannot be reached.

    Example: knothole check

    Parameters
    ----------
    server
        Ask this STUN server instead: stun:HOST or stun:HOST:PORT.
    json
        One JSON object per line.
    """
    output = Output(json=json)
    return run(_from_server(output, server) if server else _joined(output))


async def _from_server(output: Output, text: str) -> int:
    host, server = await find_server(text)
    seen = await survey(host, [server])
    return await _tell(output, seen, seen.report(), Budget(), str(server))


async def _joined(output: Output) -> int:
    profile = Profile.load()
    async with Peer(profile, callable=False, timeout=SERVER_SECONDS) as peer:
        endpoint = peer.endpoint
        await until(lambda: endpoint.discovery.complete, DISCOVERY_SECONDS)
        seen, report = endpoint.discovery.behaviour, endpoint.nat_report
        budget = endpoint.way_out.ledger.budget
        if seen is None or report is None:
            seen, report = _nothing_seen(endpoint), NatReport(udp=False)
        return await _tell(output, seen, report, budget, profile.server.host)


async def until(holds: Callable[[], bool], seconds: float) -> None:
    """Wait until it holds, at most so long."""
    for _ in range(round(seconds / LOOK_SECONDS)):
        if holds():
            return
        await asyncio.sleep(LOOK_SECONDS)


def _nothing_seen(endpoint: Endpoint) -> NatBehaviour:
    return NatBehaviour(endpoint.gatherer.candidates[0].base)


async def _tell(
    output: Output, seen: NatBehaviour, report: NatReport, budget: Budget, server: str
) -> int:
    await show_rows(output, seen, report)
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
