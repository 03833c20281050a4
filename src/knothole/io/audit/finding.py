"""What an audit has found out about one way."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Group(enum.Enum):
    """Ways that are closed together, by the word for it on the command line."""

    UDP = "udp"
    UNASKED = "unasked"
    PUNCHING = "punching"
    RELAY = "relay"
    TCP_PUNCHING = "tcp-punching"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class Finding:
    """One way by its name: open, closed, or None for what could not be told; and how one knows."""

    group: Group
    name: str
    open: bool | None
    evidence: str
