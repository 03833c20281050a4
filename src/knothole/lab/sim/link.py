"""One direction of a line: how long a packet takes, whether it arrives, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Link:
    """What a line does to packets, the same in both directions unless two are given.

    ``delay_seconds`` one way, plus up to ``jitter_seconds`` more (all values equally likely).
    ``loss``, ``reorder`` and ``duplicate`` are probabilities. Packets keep their order, jitter or
    not, except that a reordered one is held back for ``reorder_seconds`` while others pass it.
    Raises ValueError for a negative time or something that is not a probability.
    """

    delay_seconds: float = 0.0
    jitter_seconds: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    reorder_seconds: float = 0.01
    duplicate: float = 0.0

    def __post_init__(self) -> None:
        if min(self.delay_seconds, self.jitter_seconds, self.reorder_seconds) < 0:
            raise ValueError("a line has no negative times")
        if not all(0 <= share <= 1 for share in (self.loss, self.reorder, self.duplicate)):
            raise ValueError("loss, reorder and duplicate are probabilities (0 to 1)")


class Line:
    """A link in one direction, running; ``link`` may be replaced at any time.

    Every random number is drawn for every packet, so that a changed knob changes only what it
    says and not the fate of all later packets.
    """

    def __init__(self, link: Link, rng: Random) -> None:
        self.link = link
        self._rng = rng
        self._last_arrival = 0.0

    def carry(self, now: float) -> tuple[float, ...]:
        """The moments at which a packet sent now arrives: none, one, or two of a duplicate."""
        link = self.link
        draw = self._rng.random
        jitter, lost, held, doubled = draw(), draw(), draw(), draw()
        if lost < link.loss:
            return ()
        arrival = now + link.delay_seconds + jitter * link.jitter_seconds
        if held < link.reorder:
            arrival += link.reorder_seconds
        else:
            arrival = self._last_arrival = max(arrival, self._last_arrival)
        return (arrival, arrival) if doubled < link.duplicate else (arrival,)
