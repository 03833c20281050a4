"""The demo's call on computed NATs, in virtual time: the library's code end to end."""

from __future__ import annotations

import math
import struct
import wave
from pathlib import Path

import pytest

from knothole.lab.ladder import Outcome, Tone
from knothole.lab.netns.journey import Fate
from knothole.lab.report import CallReport
from knothole.lab.simulated_call import simulate_call
from knothole.lab.virtual_loop import run_virtually


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A second of a tone."""
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        samples = (int(9000 * math.sin(n * 2 * math.pi * 440 / 16000)) for n in range(16000))
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return path


def play(tmp_path: Path, speech: Path, nat: str) -> CallReport:
    recording = tmp_path / "heard.wav"
    return run_virtually(simulate_call(tmp_path, nat, 0.010, speech, recording, nat))


def test_behind_linux_nats_the_call_is_direct_in_the_articles_order(
    tmp_path: Path, speech: Path
) -> None:
    report = play(tmp_path, speech, "linux")
    assert report.is_direct
    assert report.knock.fate is Fate.DISCARDED
    assert [step.text.split(" ")[0] for step in report.story.steps[:3]] == [
        "Alice's",
        "Bob",
        "Alice's",
    ]
    assert report.story.steps[-1].text == "payload flows directly"
    discarded = [a for a in report.story.ladder.arrows if a.outcome is Outcome.DISCARDED]
    assert Tone.STRANGER in {arrow.tone for arrow in discarded}
    with wave.open(str(report.recording)) as heard:
        assert heard.getnframes() / heard.getframerate() >= 1.0


def test_behind_random_nats_the_relay_carries_it(tmp_path: Path, speech: Path) -> None:
    report = play(tmp_path, speech, "random")
    assert not report.is_direct
    assert report.direct.packets == 0
    assert report.story.steps[-1].text == "payload flows by way of the relay"
