"""The demo's call with the real programs on real NATs, and with a short speech."""

from __future__ import annotations

import math
import struct
import wave
from pathlib import Path

import pytest

from knothole.lab.ladder import Outcome, Tone
from knothole.lab.netns.journey import Fate
from knothole.lab.netns.line import LineSettings
from knothole.lab.scene import Scene

pytestmark = pytest.mark.netns

SECONDS = 6


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """So many seconds of a tone that most of them are spoken on the path that is found."""
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        samples = (
            int(9000 * math.sin(n * 2 * math.pi * 440 / 16000)) for n in range(16000 * SECONDS)
        )
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return path


@pytest.mark.parametrize(("nat", "direct"), [("linux", True), ("random", False)])
def test_bob_hears_what_alice_says(tmp_path: Path, speech: Path, nat: str, direct: bool) -> None:
    with Scene(tmp_path / "profiles", nat, LineSettings(one_way_seconds=0.010)) as scene:
        report = scene.call(speech, tmp_path / "heard.wav", nat)
    assert report.is_direct is direct
    assert report.knock.fate is Fate.DISCARDED
    assert report.knock.places == ["stranger", "alice-nat"]
    with wave.open(str(report.recording)) as heard:
        assert heard.getnframes() / heard.getframerate() >= SECONDS
    way = "directly" if direct else "by way of the relay"
    assert report.story.steps[-1].text == f"payload flows {way}"
    ladder = report.story.ladder
    assert f"They talk, {way}" in [section.title for section in ladder.sections]
    marked = [arrow for arrow in ladder.arrows if arrow.outcome is Outcome.DISCARDED]
    assert Tone.STRANGER in {arrow.tone for arrow in marked}
    if direct:
        assert {"1.1.1.1:1414 → 2.2.2.2:2828"} <= {arrow.detail for arrow in ladder.arrows}
