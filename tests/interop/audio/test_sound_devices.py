"""Real PortAudio over ALSA, at the other end of which PulseAudio keeps a room without walls."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from knothole.lab.speech import compare_files
from knothole.lab.synthetic_voice import synthetic_voice

pytestmark = pytest.mark.interop


@pytest.fixture
def room(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which the default devices are a loudspeaker and the microphone by it."""
    socket = tmp_path / "native"
    (tmp_path / ".asoundrc").write_text(
        "pcm.!default { type pulse }\nctl.!default { type pulse }\n"
    )
    environment = os.environ | {
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "PULSE_SERVER": f"unix:{socket}",
    }
    server = subprocess.Popen(
        [
            *("pulseaudio", "-n", "--daemonize=no", "--disable-shm=yes", "--exit-idle-time=-1"),
            *("--use-pid-file=no", "-L", "module-null-sink rate=48000 channels=1", "-L"),
            f"module-native-protocol-unix auth-anonymous=1 srbchannel=no socket={socket}",
        ],
        env=environment,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 40
    while not socket.is_socket():
        assert server.poll() is None and time.monotonic() < deadline, server.stderr
        time.sleep(0.05)
    yield environment
    server.terminate()
    server.communicate(timeout=20)


def test_speech_goes_out_by_a_loudspeaker_and_in_by_a_microphone(
    room: dict[str, str], tmp_path: Path
) -> None:
    speech, recorded = tmp_path / "speech.wav", tmp_path / "recorded.wav"
    with wave.open(str(speech), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", ""))
        file.writeframes(synthetic_voice(5.0).tobytes())
    script = Path(__file__).with_name("speak_in_a_room.py")
    done = subprocess.run(
        [sys.executable, str(script), str(speech), str(recorded)],
        env=room,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    match = compare_files(speech, recorded)
    # Two codecs and two devices lie between; a busy machine may drop a block.
    assert match.windowed_correlation > 0.6, match
    assert sum(gap.length_seconds for gap in match.gaps) < 1.0, match
