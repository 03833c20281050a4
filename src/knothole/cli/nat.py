"""What the NAT in front of us does, said in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from knothole.engine.stun.behaviour import NatBehaviour
from knothole.wire.nat import Dependence

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
"""What a ``--json`` object tells, by the names of NatBehaviour."""


def describe(seen: NatBehaviour) -> Iterator[tuple[str, str]]:
    """What was seen, as pairs of a heading and words."""
    if not seen.reaches_server:
        return
    mapped = next(iter(seen.mapped.values()))
    if not seen.translated:
        yield "NAT", f"none: the server sees {seen.base.host} itself"
    else:
        yield "NAT", f"{seen.base.host} becomes {mapped.host}"
        ports = ", ".join(str(each.port) for each in dict.fromkeys(seen.mapped.values()))
        kept = "kept" if seen.preserves_port else f"changed ({seen.base.port} became {ports})"
        yield "Ports", kept
        yield "Mapping", mapping_of(seen)
    yield "Filtering", filtering_of(seen)
    if seen.translated:
        yield "Hairpinning", {True: "yes", False: "no", None: "not known"}[seen.hairpinning]
    yield "Lines", prospect(seen)


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
