"""What was tried to connect one call, and what came of it: bounded, for people who ask why.

Whoever tries something notes it here as a step. :mod:`knothole.peer.explanation` makes words
of it; a program with a profile keeps it in a file, so steps are values that have a JSON form.
"""

from __future__ import annotations

from collections import deque
from typing import Final, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from knothole.engine.ice.tally import CheckCount
from knothole.wire.address import Address
from knothole.wire.nat import NatReport

FIRST_STEPS: Final = 48  # ours: how a line came about is worth more than ...
LAST_STEPS: Final = 80  # ... what happened in between; the newest steps say how it is now


class Step(Struct, frozen=True, omit_defaults=True, tag=True):
    """One thing that was decided, tried or seen."""


class FactsKnown(Step, frozen=True):
    """What each end's NAT does, as far as it is known. The newest of these counts."""

    ours: NatReport | None = None
    theirs: NatReport | None = None


class PlanChosen(Step, frozen=True):
    """``plan`` is its name, ``reason`` why, in words; ``odds`` of a direct path, 0 to 1, if told.

    ``better`` says what would make other plans possible.
    """

    plan: str
    reason: str
    odds: float | None = None
    better: str = ""


class Sampled(Step, frozen=True):
    """A server saw a fresh socket of ours as ``mapped``."""

    mapped: Address


class Probed(Step, frozen=True):
    """``count`` packets to ports of ``target_host`` from ``first_port`` to ``last_port``."""

    kind: str
    count: int
    target_host: str
    first_port: int
    last_port: int


class PoolKnown(Step, frozen=True):
    """From now on one end's random ports are taken to be from ``first`` to ``last``, both included:
    those of our own NAT with ``ours``, else those that we try. ``probes`` is how many had gone to
    the peer by then in this attempt."""

    ours: bool
    first: int
    last: int
    probes: int = 0


class SocketsUsed(Step, frozen=True):
    """``count`` further sockets were opened."""

    count: int


class TcpTried(Step, frozen=True):
    """``count`` TCP connections were begun: ``kind`` says how ("so", "active", "passive")."""

    kind: str
    count: int
    target_host: str


class Answered(Step, frozen=True):
    """Something was answered: ``via`` says what, ``remote`` is where the answer came from."""

    via: str
    remote: Address | None = None


class GaveUp(Step, frozen=True):
    """What was being tried is tried no more."""

    reason: str


class RelayOnly(Step, frozen=True):
    """One end wants no direct path: ``ours`` is True when it is this one."""

    ours: bool


class PathUsed(Step, frozen=True):
    """Payload travels this way from now on; without addresses the switchboard carries it.

    ``local_kind`` and ``remote_kind`` are kinds of candidates, ``means`` is "udp" or "tcp".
    """

    relayed: bool
    local: Address | None = None
    remote: Address | None = None
    local_kind: str = ""
    remote_kind: str = ""
    means: str = "udp"


class Ended(Step, frozen=True):
    """The line is over."""

    reason: str


AnyStep: TypeAlias = (
    FactsKnown
    | PlanChosen
    | Sampled
    | Probed
    | PoolKnown
    | SocketsUsed
    | TcpTried
    | Answered
    | GaveUp
    | RelayOnly
    | PathUsed
    | Ended
)


class Noted(Struct, frozen=True):
    """A step, and how many seconds after the call's beginning it was noted."""

    at_seconds: float
    step: AnyStep


class CandidateCount(Struct, frozen=True):
    """So many candidates of one kind and address family were told."""

    kind: str
    ipv6: bool
    count: int


class CallHistory(Struct, frozen=True):
    """All that is known of one call, as a value. ``omitted`` steps between the first and the last
    are not kept; ``ours`` and ``theirs`` count the candidates of both ends."""

    name: str
    incoming: bool
    app: str
    age_seconds: float
    over: bool
    steps: tuple[Noted, ...]
    omitted: int = 0
    ours: tuple[CandidateCount, ...] = ()
    theirs: tuple[CandidateCount, ...] = ()
    checks: tuple[CheckCount, ...] = ()


class History:
    """The steps of one call, from its beginning at ``now`` on."""

    def __init__(self, now: float) -> None:
        self.began_at = now
        self._first: list[Noted] = []
        self._last: deque[Noted] = deque(maxlen=LAST_STEPS)
        self._count = 0
        self._changed = False

    def note(self, step: AnyStep, now: float) -> None:
        """Remember ``step``. One equal to the newest changes nothing; packets of one kind to one
        host become one step with their sum."""
        newest = self._newest()
        merged = None if newest is None else _merged(newest.step, step)
        if newest is not None and merged == newest.step:
            return
        self._changed = True
        if newest is not None and merged is not None:
            self._replace_newest(Noted(newest.at_seconds, merged))
            return
        noted = Noted(max(0.0, round(now - self.began_at, 4)), step)
        self._count += 1
        if len(self._first) < FIRST_STEPS:
            self._first.append(noted)
        else:
            self._last.append(noted)

    @property
    def steps(self) -> tuple[Noted, ...]:
        """What is kept, oldest first."""
        return (*self._first, *self._last)

    @property
    def omitted(self) -> int:
        """How many steps were noted and are not kept."""
        return self._count - len(self._first) - len(self._last)

    def take_changed(self) -> bool:
        """Whether something was noted since this was asked the last time."""
        changed, self._changed = self._changed, False
        return changed

    def _newest(self) -> Noted | None:
        kept = self._last or self._first
        return kept[-1] if kept else None

    def _replace_newest(self, noted: Noted) -> None:
        kept = self._last or self._first
        kept[-1] = noted


def _merged(newest: AnyStep, step: AnyStep) -> AnyStep | None:
    """One step for both, None when they are two."""
    if newest == step and not isinstance(step, (Probed, TcpTried, SocketsUsed)):
        return newest
    match newest, step:
        case Probed(), Probed() if (newest.kind, newest.target_host) == (
            step.kind,
            step.target_host,
        ):
            return replace(
                step,
                count=newest.count + step.count,
                first_port=min(newest.first_port, step.first_port),
                last_port=max(newest.last_port, step.last_port),
            )
        case TcpTried(), TcpTried() if (newest.kind, newest.target_host) == (
            step.kind,
            step.target_host,
        ):
            return replace(step, count=newest.count + step.count)
        case SocketsUsed(), SocketsUsed():
            return SocketsUsed(newest.count + step.count)
        case _:
            return None
