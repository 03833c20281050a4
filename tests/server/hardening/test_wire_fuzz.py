"""Hardened, point 5: slow clients, half-open binds, huge lengths, truncated TLS, 64 KiB attributes.

The short version of ``./dev fuzz``: every attack a few times, with a fixed seed, at a real server.
Its own metrics and health are the witnesses, and somebody who uses it meanwhile by UDP, TCP, TLS
and DTLS.
"""

from __future__ import annotations

import sys

import pytest

from knothole.lab.fuzz.attacks import ATTACKS
from knothole.lab.fuzz.patient import Patient, everything_on
from knothole.lab.fuzz.siege import Siege

ROUNDS = 2
GROWTH_KIB = 32 * 1024  # a single message of each attack kept for good would be more in an hour

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="memory and descriptors are read from /proc"
)


@pytest.fixture(autouse=True)
def nothing_is_left() -> None:
    """The siege sees to that itself."""


async def test_a_server_withstands_every_attack_and_keeps_nothing_of_it(
    tmp_path, free_port
) -> None:
    said: list[str] = []
    with Patient(tmp_path, free_port(), config=everything_on(tmp_path)) as patient:
        outcome = await Siege(patient, seed=7).run(lambda rounds: rounds < ROUNDS, said.append)
        assert patient.stop() == 0
    assert outcome.troubles == [], said
    assert set(outcome.attacks) == set(ATTACKS)
    assert outcome.exchanges == 4 * ROUNDS * len(ATTACKS)
    assert outcome.after.resident_kib - outcome.before.resident_kib < GROWTH_KIB
    assert outcome.said.left_of(outcome.calm) == {}
    assert outcome.witness.asked > ROUNDS
    # They did something: requests were answered and refused, connections came and went.
    codes = outcome.said.by("knothole_turn_requests_total", "code")
    assert {"0", "400", "401", "403"} <= codes.keys()
    assert outcome.said.by("knothole_allocations_ended_total", "reason")["disconnected"] > 0
    assert outcome.said.by("knothole_dropped_packets_total", "reason")["malformed"] > 100
