"""What a connection asks of its owner, and what it tells."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from knothole.engine.core import Transmit
from knothole.engine.secure.events import ChannelEvent
from knothole.wire.address import Address, Transport


@dataclass(frozen=True, slots=True)
class PathInfo:
    """Where payload travels now. ``rtt_seconds`` is None until it was measured; the kinds are those
    of the candidates, "host" for instance."""

    relayed: bool
    local: Address
    remote: Address
    rtt_seconds: float | None
    local_kind: str = ""
    remote_kind: str = ""
    transport: Transport = Transport.UDP


@dataclass(frozen=True, slots=True)
class PathChanged:
    """Payload takes ``path`` from now on; None: no pair is valid, path zero carries a little."""

    path: PathInfo | None


@dataclass(frozen=True, slots=True)
class EarlyDatagrams:
    """QUIC datagrams for path zero: the parent hands them to the signalling."""

    datagrams: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SilenceChanged:
    """Nothing was heard of the other end for a while, or it is heard again."""

    silent: bool


@dataclass(frozen=True, slots=True)
class PathSuspect:
    """Nothing is heard on the path: a good moment to ask for our mapped address again."""


class Loss(enum.Enum):
    """How a line was lost."""

    NO_PATH = enum.auto()  # ICE never found one, and path zero did not last
    SILENCE = enum.auto()
    HUNG_UP = enum.auto()  # so the switchboard said, and nothing contradicts it


@dataclass(frozen=True, slots=True)
class Lost:
    """The line is over, and the other end did not say goodbye on it."""

    loss: Loss


ConnectionOutput: TypeAlias = (
    Transmit | EarlyDatagrams | PathChanged | PathSuspect | SilenceChanged | Lost | ChannelEvent
)
