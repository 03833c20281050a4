"""How many connectivity checks were sent and answered, by kinds of candidates: for ``why``."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from knothole.engine.ice.pair import CandidatePair


class CheckCount(Struct, frozen=True):
    """Checks from ``local`` to ``remote`` candidates: "host", "srflx", "prflx" or "relay".

    ``sent`` counts every transmission, ``answered`` the checks that succeeded. Checks that only
    keep consent (RFC 7675) are not counted.
    """

    local: str
    remote: str
    ipv6: bool
    sent: int
    answered: int


class Tally:
    """The counts of one agent, over all its sessions."""

    def __init__(self) -> None:
        self._sent: Counter[tuple[str, str, bool]] = Counter()
        self._answered: Counter[tuple[str, str, bool]] = Counter()

    def sent(self, pair: CandidatePair) -> None:
        """A check on ``pair`` leaves, for the first time or again."""
        self._sent[_kinds(pair)] += 1

    def answered(self, pair: CandidatePair) -> None:
        """A check on ``pair`` was answered with success."""
        self._answered[_kinds(pair)] += 1

    def counts(self) -> tuple[CheckCount, ...]:
        """What was counted so far, the most frequent kinds first."""
        return tuple(
            CheckCount(*kinds, sent, self._answered[kinds])
            for kinds, sent in self._sent.most_common()
        )


def _kinds(pair: CandidatePair) -> tuple[str, str, bool]:
    return pair.local.candidate.kind.value, pair.remote.kind.value, pair.base.is_ipv6
