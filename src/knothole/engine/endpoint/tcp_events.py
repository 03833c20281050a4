"""What TCP hole punching asks of io, and what io tells of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from knothole.engine.endpoint.tcp_aim import Sample
from knothole.wire.address import Address


@dataclass(frozen=True, slots=True)
class ProbeTcp:
    """From a fresh port of ``host`` connect to each of ``servers``, and from a second one to the
    first of them, and ask each for our mapped address (STUN over TCP). TcpProbed follows. The first
    port stays ours: OpenTcp or CloseTcp follows."""

    owner: bytes
    host: str
    servers: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class OpenTcp:
    """Connect from ``local`` to all of ``remotes`` at once, now (a simultaneous open).

    TcpOpened follows for each that succeeds within ``seconds``, TcpFailed if none has.
    """

    owner: bytes
    local: Address
    remotes: tuple[Address, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class CloseTcp:
    """Let go of everything at ``local``: connections to the peer and to servers."""

    local: Address


@dataclass(frozen=True, slots=True)
class TcpProbed:
    """What the servers saw, in the order in which the connections were begun; none: nothing was
    answered."""

    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class TcpOpened:
    """The connection is there. What comes on it is received as datagrams."""

    local: Address
    remote: Address


@dataclass(frozen=True, slots=True)
class TcpFailed:
    """No connection from ``local`` came about."""

    local: Address


@dataclass(frozen=True, slots=True)
class TcpClosed:
    """A connection that was there is gone."""

    local: Address
    remote: Address


TcpRequest: TypeAlias = ProbeTcp | OpenTcp | CloseTcp
TcpEvent: TypeAlias = TcpProbed | TcpOpened | TcpFailed | TcpClosed
