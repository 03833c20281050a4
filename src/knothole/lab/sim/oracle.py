"""Which pairs of NATs can be connected directly, from first principles.

Written apart from nat.py and sharing no code with it: no ports, no times, no packets. A transport
address is the reason for which a NAT made it. The client behind a NAT has one base; for a
destination d the NAT shows it as the endpoint (base, what the mapping looks at in d). Two packets
come from the same endpoint exactly if these agree.

What is assumed of the two clients is what RFC 8445 asks of any two ICE agents: each knows its
server-reflexive address and has told it to the other; each sends connectivity checks to every
address it knows of the other, as often as need be; where a check comes in, its source becomes
known (peer-reflexive, Section 7.3.1.3) and is checked in turn; and a check counts only if its
answer comes from where the check went (Section 7.2.5.2.1). Knowledge and permissions only grow,
so the order of packets does not matter and the end can be computed.

For one NAT on each side the end has a short form, which is ``connects_by_rule``. A pair of
addresses carries checks both ways if each NAT shows its client to the other's address as exactly
the address that the other uses, so three things can stand in the way:

1. Both map by address and port. Each one's address depends on the other's, which depends on it:
   every answer comes from yet another port and there is no such pair.
2. One maps depending on the destination, so that it shows its client to the other as an endpoint
   that nobody could foresee, and the other filters by address and port: it has not sent there
   and never learns that it should.
3. Both map depending on the destination, so that neither reflexive address, which is the one
   shown to the server, has ever been used towards the other. The first packet must come in at
   one of them. An endpoint-independent filter lets it in. An address-dependent filter does if
   what the client sent to the other counts for all its mappings (state per internal endpoint);
   if it counts only for the mapping it left by, both filters wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from knothole.lab.sim.behaviour import Dependence, FilterScope, NatBehaviour

MAX_DEPTH: Final = 8
"""Addresses that exist because of addresses because of addresses: nothing new comes after 5."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What of a middlebox decides; ``mapping`` None is a firewall, which does not translate."""

    mapping: Dependence | None
    filtering: Dependence
    filter_scope: FilterScope = FilterScope.INTERNAL_ENDPOINT

    @classmethod
    def of(cls, behaviour: NatBehaviour) -> Traits:
        """The traits of a simulated NAT as long as no ports collide."""
        scope = behaviour.filter_scope
        return cls(behaviour.observed_mapping, behaviour.filtering, scope)

    @property
    def varies(self) -> bool:
        return self.mapping not in (None, Dependence.ENDPOINT_INDEPENDENT)


def connects_by_rule(one: Traits, other: Traits) -> bool:
    """Whether clients behind these two can be connected directly, by the short form above."""
    by_address_and_port = Dependence.ADDRESS_AND_PORT_DEPENDENT
    if one.mapping is by_address_and_port and other.mapping is by_address_and_port:
        return False
    if one.varies and other.filtering is by_address_and_port:
        return False
    if other.varies and one.filtering is by_address_and_port:
        return False
    return not (one.varies and other.varies) or _lets_in(one) or _lets_in(other)


def _lets_in(traits: Traits) -> bool:
    """Whether the reflexive address admits a host that was written to from another mapping."""
    per_endpoint = traits.filter_scope is FilterScope.INTERNAL_ENDPOINT
    return traits.filtering is Dependence.ENDPOINT_INDEPENDENT or (
        traits.filtering is Dependence.ADDRESS_DEPENDENT and per_endpoint
    )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address as the reason for its being: the one it stands for, and what the NAT looked at.

    ``depth`` counts how many addresses led to it.
    """

    owner: str
    internal: Endpoint | None = None
    key: tuple[object, ...] = ()
    depth: int = field(default=0, compare=False)


class _Side:
    """A client with its middleboxes, the one next to it first."""

    def __init__(self, name: str, boxes: Sequence[Traits]) -> None:
        self.base = Endpoint(name)
        self.known: set[Endpoint] = set()
        self._boxes = boxes
        # For each box: (internal endpoint, endpoint shown outside, destination) of what it let out.
        self._let_out: list[set[tuple[Endpoint, Endpoint, Endpoint]]] = [set() for _ in boxes]

    def shown_as(self, destination: Endpoint) -> Endpoint:
        """What the destination sees as the source; the boxes remember that they let it out."""
        shown = self.base
        for box, let_out in zip(self._boxes, self._let_out, strict=True):
            internal = shown
            if box.mapping is not None:
                key = _looked_at(box.mapping, destination)
                depth = 1 + max(internal.depth, destination.depth if destination in key else 0)
                shown = Endpoint(internal.owner, internal, key, depth)
            let_out.add((internal, shown, destination))
        return shown

    def lets_in(self, source: Endpoint, destination: Endpoint) -> bool:
        """Whether a packet from ``source`` to our ``destination`` comes through to the base."""
        inner: Endpoint | None = destination
        for box, let_out in reversed(list(zip(self._boxes, self._let_out, strict=True))):
            shown = inner
            if box.mapping is not None and inner is not None:
                inner = inner.internal
            mapped = [entry for entry in let_out if entry[1] == shown]
            if not mapped and box.mapping is not None:
                return False
            per_mapping = box.filter_scope is FilterScope.MAPPING
            counted = mapped if per_mapping else [e for e in let_out if e[0] == inner]
            wanted = _looked_at(box.filtering, source)
            if all(_looked_at(box.filtering, asked) != wanted for _, _, asked in counted):
                return False
        return inner == self.base


def connects(one: Sequence[Traits], other: Sequence[Traits]) -> bool:
    """Whether clients behind these middleboxes (the nearest first) can be connected directly.

    Plays the checks of both until nothing new is learnt; any number of boxes, NATs or firewalls.
    """
    server = Endpoint("server")
    first, second = _Side("one", one), _Side("other", other)
    first.known.add(second.shown_as(server))
    second.known.add(first.shown_as(server))
    before = -1
    while before != (before := len(first.known) + len(second.known)):
        for _ in range(2):  # once so that all are sent, once so that all can come in
            if _check_all(first, second) or _check_all(second, first):
                return True
    return False


def _check_all(sender: _Side, receiver: _Side) -> bool:
    """Send checks to all known addresses; True if one is answered from where it went."""
    for destination in list(sender.known):
        source = sender.shown_as(destination)
        if source.depth > MAX_DEPTH or not receiver.lets_in(source, destination):
            continue
        receiver.known.add(source)
        if receiver.shown_as(source) == destination:
            return True
    return False


def _looked_at(dependence: Dependence, peer: Endpoint) -> tuple[object, ...]:
    match dependence:
        case Dependence.ENDPOINT_INDEPENDENT:
            return ()
        case Dependence.ADDRESS_DEPENDENT:
            return (peer.owner,)
        case Dependence.ADDRESS_AND_PORT_DEPENDENT:
            return (peer,)
