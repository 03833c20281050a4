"""The steps of a call's history in words, and what a NAT does in a few of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from knothole.engine.endpoint.history import (
    Answered,
    AnyStep,
    CallHistory,
    Ended,
    FactsKnown,
    GaveUp,
    PathUsed,
    PlanChosen,
    PoolKnown,
    Probed,
    RelayOnly,
    Sampled,
    SocketsUsed,
    TcpTried,
)
from knothole.wire.nat import (
    Modular,
    NatReport,
    Offset,
    PortAssignment,
    Preserved,
    Random,
    Sequential,
)

_ENDS: Final = {
    "host": "own",
    "srflx": "mapped",
    "prflx": "discovered",
    "relay": "relayed",
}
"""Kinds of candidates in a word, before "address"."""


def tried_in_words(history: CallHistory) -> Iterator[str]:
    """What was known and tried, and what came of it, one line each."""
    facts = [noted.step for noted in history.steps if isinstance(noted.step, FactsKnown)]
    for report, whose in (
        ((facts[-1].ours, "here"), (facts[-1].theirs, history.name)) if facts else ()
    ):
        if report is not None:
            yield f"NAT {whose}: {nat_in_words(report)}"
    for noted in history.steps:
        text = step_in_words(noted.step, history.name)
        if text:
            yield f"{noted.at_seconds:.2f} s: {text}"
    if history.omitted:
        yield f"({history.omitted} steps in between are not kept)"
    for count in history.checks:
        local, remote = _ENDS.get(count.local, count.local), _ENDS.get(count.remote, count.remote)
        family = "IPv6" if count.ipv6 else "IPv4"
        yield (
            f"{count.sent} checks from our {local} to their {remote} {family} addresses, "
            f"{count.answered or 'none'} answered"
        )


def step_in_words(step: AnyStep, name: str) -> str:
    """One step as a line; "" for what is told elsewhere. ``name`` is the other end's."""
    match step:
        case PlanChosen(plan, reason, odds):
            chance = "" if odds is None else f" (odds {odds:.0%})"
            return f"plan {plan}{chance}: {reason}"
        case Sampled(mapped):
            return f"a fresh socket is seen as {mapped}"
        case Probed(kind, count, host, first, last):
            ports = f"port {first}" if first == last else f"ports {first} to {last}"
            return f"{count} {kind} probe{'s' if count > 1 else ''} to {host}, {ports}"
        case PoolKnown():
            whose = "here" if step.ours else f"of {name}'s"
            return f"random ports {whose}: {pool_in_words(step)}, {step.first} to {step.last}"
        case SocketsUsed(count):
            return f"{count} further sockets"
        case TcpTried(kind, count, host):
            return f"{count} TCP connection{'s' if count > 1 else ''} ({kind}) to {host}"
        case Answered(via, remote):
            return f"answered: {via}" + ("" if remote is None else f", from {remote}")
        case GaveUp(reason):
            return f"given up: {reason}"
        case RelayOnly(ours):
            return f"no direct path is wanted {'here' if ours else f'by {name}'}"
        case PathUsed() if step.relayed:
            return f"payload goes {relay_in_words(step, name)}"
        case PathUsed():
            return f"payload goes {hole_in_words(step)}"
        case Ended(reason):
            return f"over: {reason}"
        case FactsKnown():
            return ""


def pools_in_words(history: CallHistory) -> str:
    """Out of how many ports the random ones of both ends' NATs were taken to be, as that became
    known during the attempt; "" where no port was guessed."""
    pools = [noted.step for noted in history.steps if isinstance(noted.step, PoolKnown)]
    return "; ".join(
        f"a random port {whose} {', then '.join(map(pool_in_words, known))}"
        for whose, ours in (("here", True), (f"of {history.name}'s", False))
        if (known := [step for step in pools if step.ours is ours])
    )


def pool_in_words(step: PoolKnown) -> str:
    """How many ports, and since when."""
    since = f" after {step.probes} probe{'s' if step.probes > 1 else ''}" if step.probes else ""
    return f"out of {step.last - step.first + 1}{since}"


def relay_in_words(used: PathUsed, name: str) -> str:
    """How a relayed path goes."""
    if used.local is None or used.remote is None:
        return "relayed by the switchboard"
    ours, theirs = used.local_kind == "relay", used.remote_kind == "relay"
    if ours and theirs:
        return f"relayed at both ends, {used.local} - {used.remote}"
    whose = "our relay" if ours else f"{name}'s relay"
    return f"relayed by {whose}, {used.local} - {used.remote}"


def hole_in_words(used: PathUsed) -> str:
    """How a direct path goes."""
    kinds = {used.local_kind, used.remote_kind}
    how = "without a hole" if kinds <= {"host"} else "from hole to hole"
    means = "" if used.means == "udp" else f" by {used.means.upper()}"
    return f"direct{means}, {used.local} - {used.remote} ({how})"


def nat_in_words(report: NatReport) -> str:
    """What a NAT does, as far as it is known, in half a line."""
    if not report.udp:
        return "no UDP gets out"
    if report.translated is False:
        firewall = report.filtering is not None and report.filtering.value
        return "none" + (f" (filtering {firewall})" if firewall else "")
    known = [
        *(() if report.mapping is None else (f"mapping {report.mapping.value}",)),
        *(() if report.filtering is None else (f"filtering {report.filtering.value}",)),
        *(() if report.ports is None else (f"ports {ports_in_words(report.ports)}",)),
        *(() if (report.levels or 1) < 2 else (f"{report.levels} in a row",)),
    ]
    return ", ".join(known) or "not known"


def ports_in_words(ports: PortAssignment) -> str:
    """How a new mapping gets its port."""
    match ports:
        case Preserved():
            return "kept"
        case Offset(offset):
            return f"moved by {offset}"
        case Modular(first, size):
            return f"{first} + p mod {size}"
        case Sequential(stride):
            return f"counted by {stride}"
        case Random(first, last):
            return f"random, {first} to {last}"
