"""How a NAT chooses external ports (RFC 4787 Section 4.2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

FIRST_UNPRIVILEGED: Final = 1024  # RFC 4787 Section 4.2.1, REQ-3a divides the ports here
LAST_PORT: Final = 65535


class Assigner(Protocol):
    """The port assignment of one running NAT, with what it remembers."""

    def candidates(self, internal_port: int) -> Iterator[int]:
        """Ports to try for a new mapping, best first, each at most a few times."""


class PortAssignment(Protocol):
    """A way to assign ports, as a value that any number of NATs may share."""

    def start(self, rng: Random) -> Assigner:
        """The state of a NAT that has just been switched on."""


@dataclass(frozen=True, slots=True)
class RandomPorts:
    """Any port from ``first`` to ``last``, all equally likely. A short range is a small pool."""

    first: int = FIRST_UNPRIVILEGED
    last: int = LAST_PORT

    def start(self, rng: Random) -> Assigner:
        return _RandomAssigner(self, rng)


@dataclass(frozen=True, slots=True)
class Sequential:
    """``first``, ``first + stride``, ... and after ``last`` from the beginning; with a stride below
    0 from ``last`` downwards."""

    first: int = 30001
    last: int = LAST_PORT
    stride: int = 1

    def start(self, rng: Random) -> Assigner:
        return _SequentialAssigner(self)


@dataclass(frozen=True, slots=True)
class Preservation:
    """The internal port itself; when it is taken, what ``otherwise`` says."""

    otherwise: PortAssignment = field(default_factory=RandomPorts)

    def start(self, rng: Random) -> Assigner:
        return _PreferenceAssigner(0, self.otherwise.start(rng))


@dataclass(frozen=True, slots=True)
class Offset:
    """The internal port plus ``offset`` (1414 becomes 31414); past 65535 or when it is taken,
    what ``otherwise`` says."""

    offset: int = 30000
    otherwise: PortAssignment = field(default_factory=RandomPorts)

    def start(self, rng: Random) -> Assigner:
        return _PreferenceAssigner(self.offset, self.otherwise.start(rng))


@dataclass(frozen=True, slots=True)
class Modular:
    """``first + p mod size`` for the internal port ``p``; when it is taken, what ``otherwise``
    says."""

    first: int = 30000
    size: int = 10000
    otherwise: PortAssignment = field(default_factory=RandomPorts)

    def start(self, rng: Random) -> Assigner:
        return _ModularAssigner(self, self.otherwise.start(rng))


class _RandomAssigner:
    def __init__(self, spec: RandomPorts, rng: Random) -> None:
        self._spec, self._rng = spec, rng

    def candidates(self, internal_port: int) -> Iterator[int]:
        spec = self._spec
        for _ in range(64):
            yield self._rng.randint(spec.first, spec.last)
        # The pool is nearly used up: look at every port once, from a random one on.
        span = spec.last - spec.first + 1
        start = self._rng.randrange(span)
        for step in range(span):
            yield spec.first + (start + step) % span


class _SequentialAssigner:
    def __init__(self, spec: Sequential) -> None:
        self._spec = spec
        self._span = spec.last - spec.first + 1
        self._next = self._span - 1 if spec.stride < 0 else 0

    def candidates(self, internal_port: int) -> Iterator[int]:
        for _ in range(self._span // math.gcd(self._span, self._spec.stride)):
            port = self._spec.first + self._next
            self._next = (self._next + self._spec.stride) % self._span
            yield port


class _ModularAssigner:
    def __init__(self, spec: Modular, otherwise: Assigner) -> None:
        self._spec, self._otherwise = spec, otherwise

    def candidates(self, internal_port: int) -> Iterator[int]:
        yield self._spec.first + internal_port % self._spec.size
        yield from self._otherwise.candidates(internal_port)


class _PreferenceAssigner:
    def __init__(self, offset: int, otherwise: Assigner) -> None:
        self._offset, self._otherwise = offset, otherwise

    def candidates(self, internal_port: int) -> Iterator[int]:
        if internal_port + self._offset <= LAST_PORT:
            yield internal_port + self._offset
        yield from self._otherwise.candidates(internal_port)
