"""How a NAT chooses ports, told from samples: pure arithmetic (RFC 4787 Section 4.2).

A rule of arithmetic on the inside port is looked for first, then a sequence, and where neither is
found the ports are random, within a pool that the samples let one estimate. A few samples that do
not fit are borne: a port that was taken, or ports that other hosts took in between.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Final

from knothole.wire.address import Address
from knothole.wire.nat import Modular, Offset, PortAssignment, Preserved, Random, Sequential

LAST_PORT: Final = 65535
FIRST_UNPRIVILEGED: Final = 1024  # RFC 4787 Section 4.2.1, REQ-3: 0-1023 are kept apart
MAX_STRIDE: Final = 1024  # wire/nat

# Ours. By chance alone two random ports of 64512 fit a given rule in one of a billion runs, three
# equal offsets in fewer; a modulus has two free numbers, so it takes more samples.
LEAST_FOR_PRESERVED: Final = 2
LEAST_FOR_OFFSET: Final = 3
LEAST_FOR_MODULAR: Final = 4
LEAST_FOR_SEQUENCE: Final = 4
LEAST_FOR_RANDOM: Final = 4
LEAST_FOR_PARITY: Final = 8  # 1 in 256 random assignments seems to keep it

MODULAR_SHARE: Final = 0.75  # ours: so many of the samples fit, the others found a port taken
MODULUS_PARTS: Final = (2, 3, 5)  # ours: a smaller part has too many ports outside of it
SEQUENCE_SHARE: Final = 0.75  # ours: so many steps go forward; a sequence that begins anew has one
EXACT_SHARE: Final = 1 / 3  # ours: so many steps are the stride itself; the others had company
MISSED_BY_POOL: Final = 0.005  # ours: how often each end of a pool may lie outside of what we say
LEAST_RATE_SECONDS: Final = 0.5  # ours: a rate from less is none


@dataclass(frozen=True, slots=True)
class Sample:
    """A new mapping that a server saw.

    Asked for at ``at`` (seconds), when ``number`` mappings of our own had been asked for before.
    ``certain`` is False when several packets were sent and nobody knows which one made it.
    """

    at: float
    number: int
    inside: Address
    outside: Address
    certain: bool = True

    @property
    def offset(self) -> int:
        """Outside port less inside port."""
        return self.outside.port - self.inside.port


def port_assignment(samples: Sequence[Sample]) -> PortAssignment | None:
    """The rule by which new mappings get their ports; None when there are too few samples."""
    found = _arithmetic(samples)
    if isinstance(found, Modular) and _is_one_run(samples):
        found = None  # with two free numbers a modulus fits a short run of ports now and then
    return found or _sequence(samples) or _pool(samples)


def is_settled(ports: PortAssignment | None, samples: Sequence[Sample]) -> bool:
    """Whether further samples would tell nothing new.

    A modulus is not settled while a part of it fits as well: as long as all ports that were tried
    lie in the same half of it, half of it explains what was seen.
    """
    match ports:
        case Preserved() | Offset():
            return True
        case Modular(_, size):
            inside = [sample.inside.port % size for sample in samples]
            return all(len({port * part // size for port in inside}) > 1 for part in MODULUS_PARTS)
    return False


def keeps_parity(samples: Sequence[Sample], ports: PortAssignment | None) -> bool | None:
    """Whether an even port stays even (RFC 4787 Section 4.2.2); None when it could be chance."""
    match ports:
        case Preserved():
            return True
        case Offset(offset):
            return offset % 2 == 0
        case Modular(first, size):
            return first % 2 == 0 and size % 2 == 0
    kept = [sample.offset % 2 == 0 for sample in samples]
    if not all(kept):
        return False
    return True if len(kept) >= LEAST_FOR_PARITY else None


def ports_per_second(samples: Sequence[Sample], ports: PortAssignment | None) -> float | None:
    """How fast others take ports of a sequential NAT; None for any other, and for short looks.

    What a mapping takes beyond its own port at one and the same moment (a NAT that keeps parity
    leaves ports out) is not laid to others' charge.
    """
    if not isinstance(ports, Sequential):
        return None
    at_once_own = at_once_extra = 0
    own, extra, seconds = 0, 0.0, 0.0
    for before, after in pairwise(_in_order(samples)):
        numbers = after.number - before.number
        steps = (after.outside.port - before.outside.port) / ports.stride
        if steps < 0:
            continue  # it began anew
        beyond = max(0.0, steps - numbers)  # a packet to ourselves may take a port or not
        if after.at == before.at:
            at_once_own += numbers
            at_once_extra += round(beyond)
        else:
            own, extra, seconds = own + numbers, extra + beyond, seconds + after.at - before.at
    if seconds < LEAST_RATE_SECONDS:
        return None
    usual = at_once_extra / at_once_own if at_once_own else 0.0
    return max(0.0, extra - usual * own) / seconds


# ------------------------------------------------------------------------------- arithmetic


def _arithmetic(samples: Sequence[Sample]) -> PortAssignment | None:
    if not samples:
        return None
    offset, offset_fits, applicable = _best_offset(samples)
    modular, modular_fits = _best_modular(samples)
    if offset is not None and (offset_fits == applicable or offset_fits >= modular_fits):
        return Preserved() if offset == 0 else Offset(offset)
    return modular


def _best_offset(samples: Sequence[Sample]) -> tuple[int | None, int, int]:
    """The offset that most samples have, how many have it, and how many could have it."""
    ends = {(sample.inside.port, sample.offset) for sample in samples}
    offset, fits = Counter(each for _, each in ends).most_common(1)[0]
    inside = {port for port, _ in ends if 0 < port + offset <= LAST_PORT}
    least = LEAST_FOR_PRESERVED if offset == 0 else LEAST_FOR_OFFSET
    if fits < least or 2 * fits <= len(inside):
        return None, 0, len(inside)
    return offset, fits, len(inside)


def _best_modular(samples: Sequence[Sample]) -> tuple[Modular | None, int]:
    """The rule of the kind ``first + p mod size`` that most samples fit, and how many."""
    ends = sorted({(sample.inside.port, sample.outside.port) for sample in samples})
    best: tuple[Modular | None, int] = None, 0
    for size in sorted(_moduli({outside - inside for inside, outside in ends})):
        first, fits = Counter(out - inside % size for inside, out in ends).most_common(1)[0]
        fitting = {out - inside for inside, out in ends if out - inside % size == first}
        if (
            fits >= max(LEAST_FOR_MODULAR, MODULAR_SHARE * len(ends))
            and fits > best[1]
            and len(fitting) > 1
            and first > 0
            and first + size - 1 <= LAST_PORT
        ):
            best = Modular(first, size), fits
    return best


def _moduli(offsets: set[int]) -> set[int]:
    """What the modulus can be: offsets of ``first + p mod size`` are multiples of it apart."""
    apart = {abs(one - other) for one, other in combinations(sorted(offsets)[:24], 2)}
    found = {math.gcd(*apart)} | apart if apart else set()
    found |= {math.gcd(one, other) for one, other in combinations(sorted(apart)[:24], 2)}
    return {size for size in found if 1 < size <= LAST_PORT}


# --------------------------------------------------------------------------------- sequence


def _sequence(samples: Sequence[Sample]) -> Sequential | None:
    steps = [
        (after.outside.port - before.outside.port, after.number - before.number)
        for before, after in pairwise(_in_order(samples))
    ]
    if len(steps) + 1 < LEAST_FOR_SEQUENCE:
        return None
    for stride, times in _strides(steps):
        # A packet to ourselves is counted, and takes a port or not.
        forward = sum(
            port % stride == 0 and port // stride >= max(1, number - 1) for port, number in steps
        )
        enough = times >= max(2, EXACT_SHARE * len(steps))
        if enough and forward >= SEQUENCE_SHARE * len(steps):
            return Sequential(stride)
    return None


def _is_one_run(samples: Sequence[Sample]) -> bool:
    """Whether every port outside is one and the same stride after that of the sample before it, no
    matter which ports they had inside; once it may have begun anew."""
    steps = [
        (after.outside.port - before.outside.port) / (after.number - before.number)
        for before, after in pairwise(_in_order(samples))
        if after.number != before.number
    ]
    if len(steps) + 1 < LEAST_FOR_SEQUENCE:
        return False
    stride, times = Counter(steps).most_common(1)[0]
    return times >= max(2, len(steps) - 1) and abs(stride) <= MAX_STRIDE


def _strides(steps: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What the stride can be and how often it was seen, likeliest first."""
    single = Counter(
        port // number
        for port, number in steps
        if number and port % number == 0 and 0 < abs(port // number) <= MAX_STRIDE
    )
    yield from sorted(single.items(), key=lambda each: (-each[1], abs(each[0])))


def _in_order(samples: Sequence[Sample]) -> list[Sample]:
    """Those of which it is known when they were made, in that order."""
    return sorted((each for each in samples if each.certain), key=lambda each: each.number)


# ------------------------------------------------------------------------------------- pool


def _pool(samples: Sequence[Sample]) -> Random | None:
    """Random ports: the whole of the pool, with great likelihood.

    For ``n`` ports drawn evenly, the gap at one end exceeds ``c`` times the range that was seen
    with the probability ``(1 + c) ** (1 - n)``, however large the pool: the ends and the gaps
    between are spacings of a uniform sample.
    """
    ports = sorted({sample.outside.port for sample in samples})
    count = len(ports)
    if count < LEAST_FOR_RANDOM:
        return None
    share = MISSED_BY_POOL ** (-1 / (count - 1)) - 1
    gap = math.ceil(share * (ports[-1] - ports[0] + 1))
    least = 1 if ports[0] < FIRST_UNPRIVILEGED else FIRST_UNPRIVILEGED
    return Random(max(least, ports[0] - gap), min(LAST_PORT, ports[-1] + gap))
