"""The probes of one call, as seen on the network: how many it took until one met a hole."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Final

from knothole.engine.ice.stray import STRAY_PRIORITY
from knothole.engine.predict.budget import Budget
from knothole.engine.punch.pace import TURN_SECONDS
from knothole.wire.address import Address

ONE_WAY_SECONDS: Final = 0.02  # between the two clients
PUBLIC: Final = {"1.1.1.1": "alice", "2.2.2.2": "bob"}
_TURN: Final = round(Budget().per_second * TURN_SECONDS)
_ENOUGH: Final = 4 * _TURN
_STRAY: Final = STRAY_PRIORITY.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: how many probes it took (None: no hit), how many of them went ``before`` the scan,
    and for each probe that went while holes were being opened how many ``holes`` there were."""

    probes: int | None
    before: int = 0
    holes: tuple[int, ...] = ()

    @property
    def pace(self) -> float:
        """How many holes were opened for each probe of the scan; 1 where it was too short to tell.
        The probes of the first turn all go at once, with the holes there were."""
        scan = self.holes[self.before :]
        later = len(scan) - _TURN
        return (scan[-1] - scan[0]) / later if later >= _ENOUGH else 1.0


class Probes:
    """What went between two clients, told in order of time; then :meth:`measured` says the rest.

    Ordinary checks between the two count like probes, as they open holes just as well; not where
    ``both`` ends aim, because nobody aims at what they open.
    """

    def __init__(self, *, both: bool, bob_port: int) -> None:
        """``bob_port`` is the mapped port that Bob's probes come from, where it is fixed."""
        self._both = both
        self._bob_port = bob_port
        self._scan_at: float | None = None
        self._sent: dict[str, list[tuple[float, int]]] = {"alice": [], "bob": []}
        self._hit_at: float | None = None
        self._holes: dict[int, float] = {}  # Alice's ports towards Bob's, and since when
        self._seen: set[tuple[Address, Address]] = set()

    def sent(
        self, by: str, at: float, source: Address, destination: Address, payload: bytes
    ) -> None:
        """A check left one of the two computers."""
        if not self._counts(payload):
            return
        if is_probe(payload) and by == "bob":
            self._scan_at = self._scan_at or at
        ends = source, destination
        if PUBLIC.get(destination.host) != by and ends not in self._seen:
            self._seen.add(ends)
            self._sent[by].append((at, destination.port))

    def opened(self, at: float, port: int, towards: int) -> None:
        """Alice's NAT has let a check out from ``port``, towards a port of Bob's."""
        if towards == self._bob_port:
            self._holes.setdefault(port, at)

    def came_in(self, at: float, payload: bytes) -> None:
        """A check came in through one of the NATs."""
        if self._counts(payload):
            self._hit_at = self._hit_at or at

    def measured(self) -> Measured:
        """Bob's probes count; where both ends send the same, the number that has the same chance
        from both: each end's aim must be among the other's ports, so their numbers multiply."""
        if self._both:
            if self._hit_at is None:
                return Measured(None)
            later_at = self._hit_at - ONE_WAY_SECONDS  # when the later of the two was sent
            counts = (sum(at <= later_at for at, _ in each) for each in self._sent.values())
            return Measured(max(1, round(math.sqrt(math.prod(counts)))))
        # Not the first packet that comes in: where Alice's was the later one it comes in a line
        # later than one of Bob's that would have been as good.
        probes, opened = self._sent["bob"], sorted(self._holes.values())
        times = [at for at, _ in probes]
        met = [
            max(number, bisect_left(times, self._holes[port] - ONE_WAY_SECONDS)) + 1
            for number, (_, port) in enumerate(probes)
            if port in self._holes
        ]
        before = 0 if self._scan_at is None else bisect_left(times, self._scan_at)
        in_time = [at + ONE_WAY_SECONDS for at in times]
        holes = [bisect_right(opened, at) for at in in_time if opened and at <= opened[-1]]
        return Measured(min(met, default=None), before, tuple(holes))

    def _counts(self, payload: bytes) -> bool:
        return not self._both or is_probe(payload)


def is_probe(payload: bytes) -> bool:
    """Whether a check is one that a plan aims, not one that belongs to a pair of candidates."""
    return _STRAY in payload
