"""The checklist of one data stream and the order of its checks (RFC 8445 Section 6.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from knothole.engine.ice.pair import CandidatePair, LocalCandidate, PairState, pair_priority
from knothole.engine.ice.role import Role
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate

_BUSY = (PairState.WAITING, PairState.IN_PROGRESS)


class Checklist:
    """Pairs by priority, the highest first, and the triggered-check queue.

    Never more than ``limit`` pairs (RFC 8445 Section 6.1.2.5); one that has been checked
    successfully or is being checked is not dropped for another. Without ``freezing`` every pair
    starts Waiting: with one component there is little to learn from a pair of the same foundation,
    and a peer's new mapping would wait for the checks to its old one to fail.
    """

    def __init__(self, role: Role, limit: int, freezing: bool = True) -> None:
        self._role = role
        self._limit = limit
        self._freezing = freezing
        self._pairs: dict[tuple[Address, Address], CandidatePair] = {}
        self._sorted: list[CandidatePair] = []
        self._triggered: deque[CandidatePair] = deque()
        self.concluded = False
        """After conclusion only triggered checks are made."""

    def __iter__(self) -> Iterator[CandidatePair]:
        return iter(self._sorted)

    def __len__(self) -> int:
        return len(self._sorted)

    def get(self, base: Address, remote: Address) -> CandidatePair | None:
        return self._pairs.get((base, remote))

    def is_needed(self, remote: Address) -> bool:
        """Whether a valid pair leads to ``remote``."""
        return any(pair.valid and pair.remote.address == remote for pair in self._sorted)

    def add(self, local: LocalCandidate, remote: Candidate) -> CandidatePair | None:
        """Form a pair and set its first state; None when it is redundant or one too many.

        A pair whose foundation already succeeded, or has nothing else under way, starts Waiting
        (RFC 8445 Section 6.1.2.6 step 4, and RFC 8838 Section 12 for pairs that come later).
        """
        pair = self._insert(local, remote, evict_better=False)
        if pair is not None:
            others = [
                each.state
                for each in self
                if each is not pair and each.foundation == pair.foundation
            ]
            succeeded = PairState.SUCCEEDED in others
            if not self._freezing or succeeded or not any(state in _BUSY for state in others):
                pair.state = PairState.WAITING
        return pair

    def add_triggered(self, local: LocalCandidate, remote: Candidate) -> CandidatePair | None:
        """The pair a check of the peer's came in on, made if it is new (RFC 8445 7.3.1.4)."""
        known = self.get(local.base, remote.address)
        return known or self._insert(local, remote, evict_better=True)

    def trigger(self, pair: CandidatePair) -> None:
        """Check ``pair`` at the next opportunity."""
        if pair.state is not PairState.SUCCEEDED:
            pair.state = PairState.WAITING
        if pair not in self._triggered:
            self._triggered.append(pair)

    def pop(self) -> CandidatePair | None:
        """The pair to be checked now, out of the queue (RFC 8445 Section 6.1.4.2)."""
        if self._triggered:
            return self._triggered.popleft()
        if self.concluded:
            return None
        if not any(pair.state is PairState.WAITING for pair in self):
            self._unfreeze_idle()
        return next((pair for pair in self if pair.state is PairState.WAITING), None)

    @property
    def pending(self) -> bool:
        """Whether :meth:`pop` would find something."""
        if self._triggered:
            return True
        if self.concluded:
            return False
        busy = {pair.foundation for pair in self if pair.state is PairState.IN_PROGRESS}
        return any(
            pair.state is PairState.WAITING
            or (pair.state is PairState.FROZEN and pair.foundation not in busy)
            for pair in self
        )

    def succeeded(self, pair: CandidatePair) -> None:
        """Unfreeze what shares the foundation (RFC 8445 Section 7.2.5.3.3)."""
        pair.state = PairState.SUCCEEDED
        for other in self:
            if other.state is PairState.FROZEN and other.foundation == pair.foundation:
                other.state = PairState.WAITING

    def untrigger(self, pair: CandidatePair) -> None:
        if pair in self._triggered:
            self._triggered.remove(pair)

    def remove(self, pair: CandidatePair) -> None:
        self.untrigger(pair)
        if self._pairs.pop(pair.key, None) is not None:
            self._sorted.remove(pair)

    def reprioritize(self) -> None:
        """Priorities and order anew: the role or a candidate changed."""
        for pair in self._sorted:
            pair.priority = pair_priority(
                pair.local.candidate.priority, pair.remote.priority, self._role.controlling
            )
        self._sorted.sort(key=lambda pair: -pair.priority)

    def _insert(
        self, local: LocalCandidate, remote: Candidate, evict_better: bool
    ) -> CandidatePair | None:
        if (local.base, remote.address) in self._pairs:
            return None
        pair = CandidatePair(local, remote)
        self._pairs[pair.key] = pair
        self._sorted.append(pair)
        self.reprioritize()
        if len(self) > self._limit:
            self._evict(pair if evict_better else None)
        return pair if self._pairs.get(pair.key) is pair else None

    def _evict(self, keep: CandidatePair | None) -> None:
        """Drop the pair least worth keeping: a failed one, else the lowest priority."""
        droppable = [
            pair
            for pair in self
            if pair is not keep and pair.state not in (PairState.IN_PROGRESS, PairState.SUCCEEDED)
        ]
        failed = [pair for pair in droppable if pair.state is PairState.FAILED]
        victims = failed or droppable
        victim = victims[-1] if victims else keep
        if victim is not None:
            self.remove(victim)

    def _unfreeze_idle(self) -> None:
        """Step 2: of each foundation with nothing under way, the highest pair goes Waiting."""
        busy = {pair.foundation for pair in self if pair.state in _BUSY}
        for pair in self:
            if pair.state is PairState.FROZEN and pair.foundation not in busy:
                pair.state = PairState.WAITING
                busy.add(pair.foundation)
