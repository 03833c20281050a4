"""knothole: a line between two computers that each sit behind a NAT, by name and encrypted.

>>> import knothole
>>> async with knothole.Peer(profile="PATH") as alice:
...     line = await alice.connect("bob", timeout=20)
...     line.send_datagram(b"hello")

Names are imported on first use, so that a command that needs little starts quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from knothole.peer.errors import (
        CallDeclined,
        KnotholeError,
        LineClosed,
        NoAnswer,
        PeerBusy,
        PeerKeyChanged,
        PeerOffline,
        ProfileError,
        RegistrationRefused,
        ServerKeyChanged,
        ServerUnreachable,
        UnknownName,
    )
    from knothole.peer.explanation import Explanation
    from knothole.peer.line import Line, Path
    from knothole.peer.peer import Peer
    from knothole.peer.stream import Stream

__version__ = "0.1.0"

_HOME = {
    "Peer": "knothole.peer.peer",
    "Line": "knothole.peer.line",
    "Path": "knothole.peer.line",
    "Explanation": "knothole.peer.explanation",
    "Stream": "knothole.peer.stream",
}

__all__ = [
    "CallDeclined",
    "Explanation",
    "KnotholeError",
    "Line",
    "LineClosed",
    "NoAnswer",
    "Path",
    "Peer",
    "PeerBusy",
    "PeerKeyChanged",
    "PeerOffline",
    "ProfileError",
    "RegistrationRefused",
    "ServerKeyChanged",
    "ServerUnreachable",
    "Stream",
    "UnknownName",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'knothole' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME.get(name, "knothole.peer.errors")), name)
