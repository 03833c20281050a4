"""Which port mappings the routers in front of us give, in words and as facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from knothole.engine.endpoint.endpoint import Endpoint
from knothole.engine.portmap.mapping import MappingAttempt, MappingProtocol, PortMapping, Progress


def has_settled(endpoint: Endpoint) -> bool:
    """Whether every router has had its say; the answer by UPnP comes last."""
    attempts = endpoint.gatherer.mapper.attempts
    return all(
        each.progress is not Progress.ASKING
        for each in attempts
        if each.protocol is MappingProtocol.UPNP
    )


def is_mapped(endpoint: Endpoint) -> bool:
    """Whether the world gets in to us by a port mapping."""
    return any(mapping.is_public for mapping in endpoint.port_mappings)


def mapping_facts(endpoint: Endpoint) -> Iterator[dict[str, object]]:
    """One for each way in which a router was asked, as ``--json`` objects have it."""
    for attempt, mapping in _granted(endpoint):
        yield {
            "protocol": attempt.protocol.value,
            "base": str(attempt.base),
            "gateway": attempt.gateway,
            "progress": attempt.progress.value,
            "external": None if mapping is None else str(mapping.external),
            "public": None if mapping is None else mapping.is_public,
            "why": attempt.detail or None,
        }


def mapping_words(endpoint: Endpoint) -> str:
    """What became of it, in one line."""
    attempts = endpoint.gatherer.mapper.attempts
    if not attempts:
        return "not asked for"
    by = sorted({each.protocol.value for each in attempts if each.progress is Progress.GRANTED})
    if not by:
        refusals = sorted({f"{a.protocol.value}: {a.detail}" for a in attempts if a.detail})
        why = f" ({', '.join(refusals)})" if refusals else ""
        return f"none{why}: with UPnP, NAT-PMP or PCP enabled on the router more would be direct"
    if not is_mapped(endpoint):
        hosts = sorted({mapping.external.host for mapping in endpoint.port_mappings})
        return f"by {', '.join(by)}, but behind another NAT ({', '.join(hosts)} is not public)"
    return f"the router lets others in, asked by {', '.join(by)}"


def _granted(endpoint: Endpoint) -> Iterator[tuple[MappingAttempt, PortMapping | None]]:
    mappings: Mapping[object, PortMapping] = {
        (mapping.base, mapping.gateway): mapping for mapping in reversed(endpoint.port_mappings)
    }
    for attempt in endpoint.gatherer.mapper.attempts:
        granted = attempt.progress is Progress.GRANTED
        yield attempt, mappings.get((attempt.base, attempt.gateway)) if granted else None
