"""ICE candidates and the line that carries one (RFC 8839 Section 5.1, RFC 6544 for TCP)."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from knothole.wire.address import Address, parse_address
from knothole.wire.malformed import MalformedMessage

MAX_LINE: Final = 1024  # ours: no candidate with any known extension comes near it


class CandidateKind(enum.Enum):
    """RFC 8445 Section 4."""

    HOST = "host"
    SERVER_REFLEXIVE = "srflx"
    PEER_REFLEXIVE = "prflx"
    RELAYED = "relay"

    @property
    def type_preference(self) -> int:
        """RFC 8445 Section 5.1.2.2, the recommended values."""
        return _TYPE_PREFERENCES[self]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address where an agent may be reached.

    ``transport`` is lower case ("udp", "tcp"). ``related`` is the base of a reflexive candidate,
    the mapped address of a relayed one. ``tcp_type`` is "active", "passive" or "so".
    ``extensions`` holds what is not understood here, in order.
    """

    foundation: str
    component: int
    transport: str
    priority: int
    address: Address
    kind: CandidateKind
    related: Address | None = None
    tcp_type: str | None = None
    generation: int | None = None
    ufrag: str | None = None
    extensions: tuple[tuple[str, str], ...] = ()


def candidate_priority(kind: CandidateKind, local_preference: int, component: int = 1) -> int:
    """The priority formula of RFC 8445 Section 5.1.2.1; ``local_preference`` is 0 to 65535."""
    if not (0 <= local_preference <= 0xFFFF and 1 <= component <= 256):
        raise ValueError("local preference is 0-65535, component 1-256")
    return kind.type_preference << 24 | local_preference << 8 | 256 - component


def encode_candidate(candidate: Candidate) -> str:
    """The candidate attribute "candidate:...", without "a=".

    Raises ValueError when a part does not fit the grammar, a space in ``ufrag`` for instance.
    """
    words = [
        f"candidate:{candidate.foundation}",
        str(candidate.component),
        candidate.transport,
        str(candidate.priority),
        candidate.address.host,
        str(candidate.address.port),
        "typ",
        candidate.kind.value,
    ]
    if candidate.related is not None:
        words += ["raddr", candidate.related.host, "rport", str(candidate.related.port)]
    if candidate.tcp_type is not None:
        words += ["tcptype", candidate.tcp_type]
    if candidate.generation is not None:
        words += ["generation", str(candidate.generation)]
    if candidate.ufrag is not None:
        words += ["ufrag", candidate.ufrag]
    for extension in candidate.extensions:
        words += extension
    line = " ".join(words)
    if _LINE.fullmatch(line) is None or len(line) > MAX_LINE:
        raise ValueError(f"not a candidate that a line can carry: {line!r}")
    return line


def decode_candidate(line: str) -> Candidate:
    """The candidate in a line, with or without "a=" before it.

    Raises MalformedMessage for what is not in the grammar, and for what cannot be used here: a host
    name in place of an address, a type that is unknown (RFC 8839: such a candidate is ignored).
    """
    if len(line) > MAX_LINE:
        raise MalformedMessage(f"a candidate line of {len(line)} characters")
    match = _LINE.fullmatch(line.removeprefix("a=").removeprefix("A=").strip(" \r\n"))
    if match is None:
        raise MalformedMessage("not a candidate line")
    foundation, component, transport, priority, host, port, kind, rest = match.groups()
    if not (1 <= int(component) <= 256 and 1 <= int(priority) <= 0x7FFFFFFF):
        raise MalformedMessage("component or priority out of range")
    words = rest.split(" ")[1:]
    if len(words) % 2:
        raise MalformedMessage("a candidate extension without a value")
    pairs = list(zip(words[::2], words[1::2], strict=True))
    related, tcp_type, generation, ufrag, extensions = _read_extensions(pairs)
    return Candidate(
        foundation,
        int(component),
        transport.lower(),
        int(priority),
        _read_address(host, port),
        _read_kind(kind),
        related,
        tcp_type,
        generation,
        ufrag,
        extensions,
    )


_Extensions = tuple[Address | None, str | None, int | None, str | None, tuple[tuple[str, str], ...]]


def _read_extensions(pairs: list[tuple[str, str]]) -> _Extensions:
    """The first of each counts; what is not ours is kept as it came."""
    known: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    for name, value in pairs:
        if name not in _KNOWN_EXTENSIONS:
            others.append((name, value))
        elif name not in known:
            known[name] = value
    related = None
    if ("raddr" in known) != ("rport" in known):
        raise MalformedMessage("raddr and rport come together or not at all")
    if "raddr" in known:
        related = _read_address(known["raddr"], known["rport"])
    tcp_type = known.get("tcptype")
    if tcp_type not in (None, "active", "passive", "so"):  # RFC 6544 Section 4.5
        raise MalformedMessage(f"tcptype {tcp_type}")
    generation = known.get("generation")
    if generation is not None and not _GENERATION.fullmatch(generation):
        raise MalformedMessage("a generation that is not a number")
    number = None if generation is None else int(generation)
    return related, tcp_type, number, known.get("ufrag"), tuple(others)


def _read_address(host: str, port: str) -> Address:
    if not _PORT.fullmatch(port):
        raise MalformedMessage("a port that is not a number")
    if "%" in host:
        raise MalformedMessage("another host's zone means nothing here")
    try:
        return parse_address(host, int(port))
    except ValueError as error:
        raise MalformedMessage(f"not an IP address and port: {error}") from error


def _read_kind(kind: str) -> CandidateKind:
    try:
        return CandidateKind(kind)
    except ValueError as error:
        raise MalformedMessage(f"unknown candidate type {kind}") from error


_TYPE_PREFERENCES = {
    CandidateKind.HOST: 126,
    CandidateKind.PEER_REFLEXIVE: 110,
    CandidateKind.SERVER_REFLEXIVE: 100,
    CandidateKind.RELAYED: 0,
}

_KNOWN_EXTENSIONS = frozenset(("raddr", "rport", "tcptype", "generation", "ufrag"))
_PORT = re.compile(r"[0-9]{1,5}")
_GENERATION = re.compile(r"[0-9]{1,10}")
_WORD = r"[\x21-\x7e]{1,256}"
_LINE = re.compile(
    r"candidate:([A-Za-z0-9+/]{1,32}) ([0-9]{1,3}) ([A-Za-z0-9-]{1,32}) ([0-9]{1,10}) "
    rf"({_WORD}) ([0-9]{{1,5}}) typ ({_WORD})((?: {_WORD} {_WORD})*)",
    re.IGNORECASE,
)
