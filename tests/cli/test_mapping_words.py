"""What is said of port mappings, for every state they can be in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from knothole.cli.mappings import has_settled, is_mapped, mapping_facts, mapping_words
from knothole.engine.portmap.mapping import (
    MappingAttempt,
    MappingProtocol,
    PortMapping,
    Progress,
)
from knothole.wire.address import Address

BASE, GATEWAY = Address("192.168.1.10", 1414), "192.168.1.1"


def attempt(protocol: MappingProtocol, progress: Progress, detail: str = "") -> MappingAttempt:
    return MappingAttempt(protocol, BASE, GATEWAY, progress, detail)


def endpoint(*attempts: MappingAttempt, external: str = "") -> Any:
    """As much of an endpoint as is looked at."""
    address = Address(external, 1414)
    mapping = PortMapping(MappingProtocol.PCP, BASE, GATEWAY, address, 7200)
    mapper = SimpleNamespace(attempts=attempts)
    return SimpleNamespace(
        gatherer=SimpleNamespace(mapper=mapper), port_mappings=(mapping,) if external else ()
    )


PCP = attempt(MappingProtocol.PCP, Progress.GRANTED)
REFUSED = attempt(MappingProtocol.NAT_PMP, Progress.REFUSED, "NETWORK_FAILURE")
SILENT = attempt(MappingProtocol.UPNP, Progress.SILENT)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (endpoint(), "not asked for"),
        (endpoint(SILENT), "none: with UPnP"),
        (endpoint(REFUSED, SILENT), "none (NAT-PMP: NETWORK_FAILURE)"),
        (endpoint(PCP, SILENT, external="1.1.1.1"), "lets others in, asked by PCP"),
        (endpoint(PCP, external="100.64.0.9"), "behind another NAT (100.64.0.9 is not public)"),
    ],
)
def test_every_state_has_its_words(given: Any, words: str) -> None:
    assert words in mapping_words(given)


def test_the_facts_name_each_way_of_asking_and_what_it_gave() -> None:
    granted, refused = mapping_facts(endpoint(PCP, REFUSED, external="1.1.1.1"))
    assert granted["external"] == "1.1.1.1:1414" and granted["public"] is True
    assert (refused["external"], refused["why"]) == (None, "NETWORK_FAILURE")


def test_only_an_address_of_the_world_counts_as_mapped() -> None:
    assert is_mapped(endpoint(PCP, external="1.1.1.1"))
    assert not is_mapped(endpoint(PCP, external="192.168.0.9"))
    assert not is_mapped(endpoint(PCP))


def test_it_has_settled_when_upnp_has_had_its_say() -> None:
    assert has_settled(endpoint())
    assert has_settled(endpoint(PCP, SILENT))
    assert not has_settled(endpoint(PCP, attempt(MappingProtocol.UPNP, Progress.ASKING)))
