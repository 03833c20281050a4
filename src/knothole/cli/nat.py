"""What the NAT in front of us does, in words, each with the evidence for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import msgspec

from knothole.engine.stun.assignment import Sample
from knothole.engine.stun.behaviour import NatBehaviour
from knothole.wire.nat import (
    Dependence,
    Modular,
    NatReport,
    Offset,
    PortAssignment,
    Preserved,
    Random,
    Sequential,
)

FACTS: Final = (
    "base",
    "mapped",
    "translated",
    "preserves_port",
    "mapping",
    "mapping_varies_by_host",
    "mapping_varies_by_port",
    "filtering",
    "answered_from_other_host",
    "answered_from_other_port",
    "hairpinning",
)
"""What a ``--json`` object of ``knothole status`` tells, by the names of NatBehaviour."""

SHOWN_SAMPLES: Final = 4
NOT_KNOWN: Final = "not known"


@dataclass(frozen=True, slots=True)
class Row:
    """One fact. ``name`` and ``value`` are for programs, None is what could not be told."""

    name: str
    heading: str
    words: str
    value: object
    evidence: str


def rows(
    seen: NatBehaviour, report: NatReport, routers: Sequence[str | None] = ()
) -> Iterator[Row]:
    """What was seen, most important first. Without UDP there is one row.

    ``routers`` are the first ones on the way, as far as they said who they are.
    """
    base = seen.base.host
    if not report.udp:
        yield Row("udp", "UDP", "does not reach the server", False, "no answer to any request")
        return
    servers = [f"{server} sees {mapped}" for server, mapped in seen.mapped.items()]
    yield Row("udp", "UDP", "works", True, servers[0])
    mapped = next(iter(seen.mapped.values()))
    if not report.translated:
        words = f"none: the server sees {base} itself"
    else:
        words = f"{base} becomes {mapped.host}"
    yield Row("translated", "NAT", words, report.translated, f"{seen.base} becomes {mapped}")
    if report.translated:
        yield from _translation(seen, report, routers)
    else:
        yield Row("levels", "NATs in a row", "0", 0, "nothing is translated")
    tried = (
        f"an answer from another address {_came(seen.answered_from_other_host)}, "
        f"from another port of the same {_came(seen.answered_from_other_port)}"
    )
    yield Row("filtering", "Filtering", filtering_of(seen), _plain(report.filtering), tried)
    yield _ipv6(report.filtering_ipv6)


def _translation(
    seen: NatBehaviour, report: NatReport, routers: Sequence[str | None]
) -> Iterator[Row]:
    hosts = sorted(seen.hosts)
    yield Row("hosts", "Addresses", f"{len(hosts)} public", report.hosts, ", ".join(hosts))
    levels = NOT_KNOWN if report.levels is None else str(report.levels)
    yield Row(
        "levels",
        "NATs in a row",
        f"{levels} (one at least)" if report.levels is None else levels,
        report.levels,
        f"the first routers: {', '.join(each or 'silent' for each in routers) or NOT_KNOWN}",
    )
    servers = [f"{server.host}:{server.port} sees {at.port}" for server, at in seen.mapped.items()]
    asked = f"port {seen.base.port}: {', '.join(servers)}"
    yield Row("mapping", "Mapping", mapping_of(seen), _plain(report.mapping), asked)
    value = None if report.ports is None else msgspec.to_builtins(report.ports)
    yield Row("ports", "Ports", ports_of(report.ports), value, _samples(seen.samples))
    words = {True: "kept", False: "not kept", None: NOT_KNOWN}[report.keeps_parity]
    even = sum(sample.offset % 2 == 0 for sample in seen.samples)
    kept = f"{even} of {len(seen.samples)} mappings"
    yield Row("keeps_parity", "Parity", words, report.keeps_parity, kept)
    yield _neighbours(seen, report)
    hairpins = {True: "yes", False: "no", None: NOT_KNOWN}[report.hairpinning]
    own = f"a packet to {next(iter(seen.mapped.values()))} {_came(seen.hairpinning)}"
    yield Row("hairpinning", "Hairpinning", hairpins, report.hairpinning, own)
    yield Row(
        "lifetime_seconds",
        "Lifetime",
        f"{NOT_KNOWN}: --lifetime measures it"
        if report.lifetime_seconds is None
        else f"{report.lifetime_seconds:g} s at least without a packet",
        report.lifetime_seconds,
        "idle mappings, each asked once whether it is still there",
    )


def _neighbours(seen: NatBehaviour, report: NatReport) -> Row:
    rate = report.ports_per_second
    words = f"{NOT_KNOWN}: it shows in a sequence of ports only"
    evidence = "none"
    if rate is not None:
        words = f"take {rate:g} ports a second" if rate else "quiet"
        certain = sorted((s for s in seen.samples if s.certain), key=lambda s: s.number)
        gaps = [(b.at - a.at, a, b) for a, b in pairwise(certain)]
        seconds, before, after = max(gaps, key=lambda gap: gap[0])
        ours = after.number - before.number
        evidence = (
            f"{before.outside.port} and {seconds:.1f} s later {after.outside.port}, {ours} of ours"
        )
    return Row("ports_per_second", "Neighbours", words, rate, evidence)


def _ipv6(filtering: Dependence | None) -> Row:
    words = f"{NOT_KNOWN}: no server was reached over IPv6"
    if filtering is Dependence.ENDPOINT_INDEPENDENT:
        words = "no firewall: anybody gets in"
    elif filtering is not None:
        words = f"firewall, {filtering.value}"
    evidence = "none" if filtering is None else "answers from other addresses were asked for"
    return Row("filtering_ipv6", "IPv6", words, _plain(filtering), evidence)


def ports_of(ports: PortAssignment | None) -> str:
    """How a new mapping gets its port."""
    match ports:
        case None:
            return f"{NOT_KNOWN}: too few samples"
        case Preserved():
            return "kept"
        case Offset(offset):
            return f"inside port {'+' if offset > 0 else '-'} {abs(offset)}"
        case Modular(first, size):
            return f"{first} + inside port mod {size}"
        case Sequential(stride):
            return f"in sequence, each {stride:+d}"
        case Random(first, last):
            return f"random, from {first} to {last} or less"


def describe(seen: NatBehaviour, report: NatReport) -> Iterator[tuple[str, str]]:
    """What was seen in short, as pairs of a heading and words."""
    if report.udp:
        shown = ("translated", "ports", "mapping", "filtering", "hairpinning")
        for row in rows(seen, report):
            if row.name in shown:
                yield row.heading, row.words
        yield "Lines", prospect(seen)


def _samples(samples: Sequence[Sample]) -> str:
    shown = [f"{each.inside.port} -> {each.outside.port}" for each in samples[:SHOWN_SAMPLES]]
    more = [] if len(samples) <= SHOWN_SAMPLES else ["..."]
    return f"{len(samples)} new mappings: {', '.join(shown + more)}"


def _came(through: bool | None) -> str:
    return {True: "came in", False: "did not come in", None: "could not be had"}[through]


def mapping_of(seen: NatBehaviour) -> str:
    """Mapping behaviour, in the terms of RFC 4787, or what is known of it."""
    if seen.mapping is not None:
        return seen.mapping.value
    if seen.mapping_varies_by_port is False:
        return "the same for two ports of the server (it has no second address to tell more)"
    if seen.mapping_varies_by_host:
        return "another one for every server address"
    return "not known: the server answers on one port only"


def filtering_of(seen: NatBehaviour) -> str:
    """Filtering behaviour, in the terms of RFC 4787, or what is known of it."""
    if seen.filtering is not None:
        return seen.filtering.value
    if seen.answered_from_other_port:
        return "lets another port of the server in (it has no second address to tell more)"
    return "not known: the server has no second port that answers"


def prospect(seen: NatBehaviour) -> str:
    """What that means for lines to others."""
    if seen.filtering is Dependence.ENDPOINT_INDEPENDENT:
        return "direct with nearly everybody"
    if seen.mapping_varies_by_host or seen.mapping_varies_by_port:
        return "direct with those who have no NAT or a permissive one, else over the relay"
    return "direct, unless the other side's mapping depends on whom it talks to"


def facts(seen: NatBehaviour | None) -> dict[str, object]:
    """What was seen, as the ``--json`` object has it; null is what could not be told."""
    if seen is None:
        return dict.fromkeys(FACTS)
    return {
        "base": str(seen.base),
        "mapped": {str(server): str(mapped) for server, mapped in seen.mapped.items()},
        **{name: _plain(getattr(seen, name)) for name in FACTS[2:]},
    }


def _plain(value: Dependence | bool | None) -> str | bool | None:
    return value.value if isinstance(value, Dependence) else value
