"""Attacks in turn, for a time or a number of rounds, and somebody who uses the server meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from knothole.engine.turn.credentials import Credentials, rest_credentials
from knothole.lab.fuzz.attacks import ATTACKS, Target
from knothole.lab.fuzz.patient import Patient, Vitals, vitals
from knothole.lab.relay_user import Pair
from knothole.wire.address import Address, Transport

TRANSPORTS: Final = (Transport.UDP, Transport.TCP, Transport.TLS, Transport.DTLS)
# Ours: until the server has let go of whoever said nothing, by the longest of its deadlines, and a
# busy machine has got round to it.
SETTLE_SECONDS: Final = 150.0
LIFETIME_SECONDS: Final = 24 * 3600


@dataclass(slots=True)
class Outcome:
    """What a siege came to. ``troubles`` is empty when the server withstood."""

    before: Vitals
    after: Vitals
    attacks: Counter[str] = field(default_factory=Counter)
    exchanges: int = 0
    troubles: list[str] = field(default_factory=list)
    course: list[tuple[float, Vitals]] = field(default_factory=list)
    """Seconds since the beginning, and how the server was."""


class Siege:
    """Of a server on this machine, from its own address."""

    def __init__(self, patient: Patient, seed: int) -> None:
        self._patient = patient
        self._rng = random.Random(seed)  # noqa: S311 - to be repeated
        self._address = Address("127.0.0.1", patient.port)
        self._target = Target(self._address, self._credentials("mallory"))
        self._pairs = [
            Pair(self._address, transport, self._credentials("alice")) for transport in TRANSPORTS
        ]

    async def run(self, goes_on: Callable[[int], bool], tell: Callable[[str], object]) -> Outcome:
        """Attack while ``goes_on`` says so of the number of rounds; then see what is left."""
        # libuv opens a descriptor for itself, once, with the first connection of a process.
        await ATTACKS["half HTTP"](self._target, self._rng)
        for pair in self._pairs:
            await pair.open()
        calm = self._vitals()
        outcome = Outcome(calm, calm)
        begun = time.monotonic()
        rounds = 0
        while goes_on(rounds) and not outcome.troubles:
            names = list(ATTACKS)
            self._rng.shuffle(names)
            for name in names:
                await ATTACKS[name](self._target, self._rng)
                outcome.attacks[name] += 1
                await self._exchange(outcome, name)
            rounds += 1
            outcome.after = self._vitals()
            outcome.course.append((time.monotonic() - begun, outcome.after))
            if rounds == 1:
                outcome.before = outcome.after  # caches and tables are what they will be
            tell(f"round {rounds}: {outcome.after}")
        await self._settle(outcome, calm.descriptors, tell)
        for pair in self._pairs:
            await pair.close()
        if complaints := self._patient.complaints():
            outcome.troubles.append(f"the server complained: {complaints[:500]}")
        return outcome

    async def _exchange(self, outcome: Outcome, after: str) -> None:
        for pair in self._pairs:
            if await pair.exchange():
                outcome.exchanges += 1
            else:
                reason = "; ".join(pair.trouble) or "nothing got through"
                outcome.troubles.append(f"after {after}: somebody who behaves: {reason}")
        if not self._patient.lives:
            outcome.troubles.append(f"after {after}: a process of the server has ended")

    async def _settle(self, outcome: Outcome, wanted: int, tell: Callable[[str], object]) -> None:
        """Until there are no more descriptors than those who behave need."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while not outcome.troubles:
            outcome.after = self._vitals()
            if outcome.after.descriptors <= wanted:
                break
            if time.monotonic() > deadline:
                left = outcome.after.descriptors
                outcome.troubles.append(f"{left} descriptors are left, of {wanted}")
            await asyncio.sleep(0.5)
        tell(f"after all: {outcome.after}")

    def _vitals(self) -> Vitals:
        return vitals(self._patient.processes)

    def _credentials(self, name: str) -> Credentials:
        return rest_credentials(self._patient.secret, name, LIFETIME_SECONDS, time.time())
