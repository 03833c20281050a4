from __future__ import annotations

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from knothole.lab.speech import compare
from knothole.lab.synthetic_voice import synthetic_voice

VOICE = synthetic_voice(12.0)
RATE = 48_000


def late(seconds: float) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    return np.concatenate([np.zeros(round(seconds * RATE), np.int16), VOICE])


def test_the_same_a_little_later_is_found_to_the_sample() -> None:
    match = compare(VOICE, late(0.0875))
    assert match.correlation == pytest.approx(1.0)
    assert match.delay_seconds == pytest.approx(0.0875)
    assert match.gaps == () and match.drift_seconds == 0.0
    assert match.recorded_seconds - match.spoken_seconds == pytest.approx(0.0875)


def test_a_recording_that_began_later_has_a_delay_below_zero_and_lacks_the_beginning() -> None:
    match = compare(VOICE, VOICE[RATE:])
    assert match.delay_seconds == pytest.approx(-1.0)
    assert match.gaps[0].at_seconds < 0.1
    assert 0.8 < match.correlation < 0.99


def test_as_much_noise_as_voice_halves_the_energy() -> None:
    noise = np.random.default_rng(1).standard_normal(len(VOICE)) * VOICE.astype(float).std()
    match = compare(VOICE, (VOICE / 4 + noise / 4).astype(np.int16))
    assert match.correlation == pytest.approx(0.5**0.5, abs=0.02)


def test_another_voice_is_not_alike() -> None:
    assert compare(VOICE, synthetic_voice(12.0, seed=9)).correlation < 0.3


def test_a_hole_is_found_where_it_is() -> None:
    recorded = late(0.05)
    start = round(6.05 * RATE)
    recorded[start : start + RATE] = 0
    gaps = compare(VOICE, recorded).gaps
    assert gaps[0].at_seconds == pytest.approx(6.0, abs=0.1)
    assert 0.7 < sum(gap.length_seconds for gap in gaps) <= 1.0
    assert all(5.9 < gap.at_seconds < 7.0 for gap in gaps)


def test_a_delay_that_changed_on_the_way_shows_in_drift_and_windows() -> None:
    recorded = np.concatenate([VOICE[: 6 * RATE], np.zeros(1920, np.int16), VOICE[6 * RATE :]])
    match = compare(VOICE, recorded)
    assert match.correlation < 0.9
    assert match.windowed_correlation > 0.99
    assert match.drift_seconds == pytest.approx(0.04)


def test_silence_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="nothing but silence"):
        compare(VOICE, np.zeros(RATE, np.int16))


def test_as_a_command_it_prints_one_object(tmp_path: Path) -> None:
    path = tmp_path / "voice.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(VOICE.tobytes())
    command = [sys.executable, "-m", "knothole.lab.speech", str(path), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["correlation"] == pytest.approx(1.0)
