"""Attacks in turn, for a time or a number of rounds, and somebody who uses the server meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from knothole.engine.turn.credentials import Credentials, rest_credentials
from knothole.lab.fuzz.attacks import ATTACKS
from knothole.lab.fuzz.patient import Patient, Vitals, vitals
from knothole.lab.fuzz.ways import Target
from knothole.lab.fuzz.witness import MOST_GROWTH, Figures, Witness
from knothole.lab.relay_user import Pair
from knothole.wire.address import Address, Transport

TRANSPORTS: Final = (Transport.UDP, Transport.TCP, Transport.TLS, Transport.DTLS)
# Ours: until the server has let go of whoever said nothing, by the longest of its deadlines, and a
# busy machine has got round to it.
SETTLE_SECONDS: Final = 150.0
LIFETIME_SECONDS: Final = 24 * 3600


@dataclass(slots=True)
class Outcome:
    """What a siege came to. ``troubles`` is empty when the server withstood.

    ``before`` and ``after`` are as the system saw it, ``calm`` and ``said`` as itself did: before
    the first attack, and at the end.
    """

    before: Vitals
    after: Vitals
    calm: Figures
    said: Figures
    witness: Witness
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
            await pair.exchange()
        witness = Witness(self._patient.metrics_port)
        calm = await self._calm(witness)
        witness.own = calm.allocations
        outcome = Outcome(self._vitals(), self._vitals(), calm, calm, witness)
        tell(f"before: {calm}")
        watching = asyncio.create_task(witness.watch())
        try:
            await self._attack(outcome, goes_on, tell)
            await self._settle(outcome, tell)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            for pair in self._pairs:
                await pair.close()
        outcome.troubles += witness.troubles
        if complaints := self._patient.complaints():
            outcome.troubles.append(f"the server complained: {complaints[:500]}")
        return outcome

    async def _calm(self, witness: Witness) -> Figures:
        """How it is while those who behave are alone: once nothing changes any more."""
        deadline = time.monotonic() + SETTLE_SECONDS
        said = await witness.look()
        while time.monotonic() < deadline:
            await asyncio.sleep(1.0)
            before, said = said, await witness.look()
            if before.held == said.held:
                break
        witness.most.clear()
        return said

    async def _attack(
        self, outcome: Outcome, goes_on: Callable[[int], bool], tell: Callable[[str], object]
    ) -> None:
        begun = time.monotonic()
        rounds = 0
        while goes_on(rounds) and not (outcome.troubles or outcome.witness.troubles):
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
            with contextlib.suppress(OSError, ValueError):  # the watch notes it
                outcome.said = await outcome.witness.look()
            tell(f"round {rounds}: {outcome.said}")

    async def _exchange(self, outcome: Outcome, after: str) -> None:
        for pair in self._pairs:
            if await pair.exchange():
                outcome.exchanges += 1
            else:
                reason = "; ".join(pair.trouble) or "nothing got through"
                outcome.troubles.append(f"after {after}: somebody who behaves: {reason}")
        if not self._patient.lives:
            outcome.troubles.append(f"after {after}: a process of the server has ended")

    async def _settle(self, outcome: Outcome, tell: Callable[[str], object]) -> None:
        """Until nothing is left but what those who behave need."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while not (outcome.troubles or outcome.witness.troubles):
            try:
                outcome.said = await outcome.witness.look()
            except (OSError, ValueError) as error:
                outcome.troubles.append(f"after all the metrics do not answer: {error!r}")
                break
            left = outcome.said.left_of(outcome.calm)
            if not left:
                break
            if time.monotonic() > deadline:
                outcome.troubles += [
                    f"{now} {name}, {was} before" for name, (now, was) in left.items()
                ]
            await asyncio.sleep(0.5)
        outcome.after = self._vitals()
        growth = (outcome.after.resident_kib - outcome.before.resident_kib) * 1024
        if growth > MOST_GROWTH:
            outcome.troubles.append(f"{growth / 2**20:.1f} MiB more than after the first round")
        tell(f"after all: {outcome.said}")

    def _vitals(self) -> Vitals:
        return vitals(self._patient.processes)

    def _credentials(self, name: str) -> Credentials:
        return rest_credentials(self._patient.secret, name, LIFETIME_SECONDS, time.time())
