"""Where a line's payload travels, as an application sees it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

from knothole.engine.connection import PathInfo
from knothole.wire.address import Address, Transport


@dataclass(frozen=True, slots=True)
class Path:
    """Where payload travels: from hole to hole, or by way of a relay.

    ``local`` is the address it leaves from (the relayed address when our relay carries it),
    ``remote`` where it goes to, ``rtt_seconds`` the last measured round trip, None before the
    first. A relayed path with no addresses is path zero: the signalling, until there is a better.
    ``transport`` is what goes between the two addresses, "tcp" only on a direct path.
    """

    kind: Literal["direct", "relayed"]
    local: Address | None
    remote: Address | None
    rtt_seconds: float | None
    transport: Literal["udp", "tcp"] = "udp"

    def __str__(self) -> str:
        if self.local is None or self.remote is None:
            return f"{self.kind} (by the switchboard)"
        over = " over TCP" if self.transport == "tcp" else ""
        return f"{self.kind} {self.local} - {self.remote}{over}"


PATHS_KEPT: Final = 64  # ours: for who reads a line's changes late

PATH_ZERO: Final = Path("relayed", None, None, None)


def path_of(info: PathInfo | None) -> Path:
    """The path of a line; None: no pair of addresses carries payload yet, or any more."""
    if info is None:
        return PATH_ZERO
    kind: Literal["direct", "relayed"] = "relayed" if info.relayed else "direct"
    transport: Literal["udp", "tcp"] = "tcp" if info.transport is Transport.TCP else "udp"
    return Path(kind, info.local, info.remote, info.rtt_seconds, transport)


class PathLog:
    """The paths that a line has had, as far as somebody may still ask for them."""

    def __init__(self) -> None:
        self.count = 0
        self._newest: deque[Path] = deque(maxlen=PATHS_KEPT)

    def add(self, path: Path) -> None:
        self._newest.append(path)
        self.count += 1

    def since(self, count: int) -> list[Path]:
        """Those that came after the first ``count``, oldest first, as far as they are kept."""
        missed = min(self.count - count, len(self._newest))
        return list(self._newest)[len(self._newest) - missed :]
