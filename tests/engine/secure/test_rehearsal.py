"""The handshake with oneself is a real one."""

from __future__ import annotations

import random

from knothole.engine.secure.rehearsal import rehearse


def test_both_ends_of_the_rehearsal_are_proven() -> None:
    assert rehearse(random.Random(1).randbytes)
