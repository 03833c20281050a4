"""What is known of a demo call afterwards, however its NATs were made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from knothole.lab.netns.counters import Count
from knothole.lab.netns.journey import Journey
from knothole.lab.story import Story

ALICE_PORT: Final = 1414  # the article's
BOB_PORT: Final = 2828
STRANGER: Final = "9.9.9.9"


@dataclass(frozen=True, slots=True)
class CallReport:
    """A call as seen from outside.

    ``knock`` is the way of the stranger's packet before it. ``direct`` and ``relayed`` are what
    the internet carried from client to client, and from the server to clients, while the call
    lasted; ``recording`` is what Bob's program wrote.
    """

    story: Story
    knock: Journey
    direct: Count
    relayed: Count
    recording: Path
    seconds: float

    @property
    def is_direct(self) -> bool:
        return self.direct.size > self.relayed.size
