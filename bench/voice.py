"""A call between two ends in one process over a line in memory, in real time, measured.

    python bench/voice.py [SPEECH.wav] [--seconds 60] [--loss 0.05] [--jitter 0.005] [--delay 0.02]

One end speaks the file and the other records it; each also encodes and sends (silence comes
back). Prints one JSON object: likeness, mouth-to-ear delay above the path's, and CPU per end (half
of the process; loading FFmpeg is in it).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
import wave
from pathlib import Path

from knothole.apps.call import talk
from knothole.io.audio import sink_for, source_for
from knothole.io.audio.file import read_sound
from knothole.lab.lossy_line import lossy_lines
from knothole.lab.speech import compare_files

SPEECH = Path(__file__).parents[1] / "src" / "knothole" / "data" / "speech.wav"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("speech", nargs="?", type=Path, default=SPEECH)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--delay", type=float, default=0.02, help="one way, seconds")
    parser.add_argument("--jitter", type=float, default=0.0, help="at most, seconds")
    parser.add_argument("--loss", type=float, default=0.0, help="fraction, both ways")
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    run = asyncio.run
    if options.uvloop:
        from uvloop import run
    with tempfile.TemporaryDirectory() as folder:
        spoken, recorded = Path(folder, "spoken.wav"), Path(folder, "recorded.wav")
        _repeat(options.speech, spoken, options.seconds)
        cpu, wall = time.process_time(), time.monotonic()
        outcomes = run(_call(spoken, recorded, options))
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        match = compare_files(spoken, recorded)
    alice, bob = outcomes
    assert alice.source_started_at is not None and bob.sink_started_at is not None
    mouth_to_ear = match.delay_seconds + bob.sink_started_at - alice.source_started_at
    print(
        json.dumps(
            {
                "outcome": [alice.text, bob.text],
                "correlation": round(match.correlation, 4),
                "windowed_correlation": round(match.windowed_correlation, 4),
                "gaps": len(match.gaps),
                "drift_ms": round(1000 * match.drift_seconds, 2),
                "mouth_to_ear_above_path_ms": round(1000 * (mouth_to_ear - options.delay), 1),
                "estimated_mouth_to_ear_ms": round(1000 * (bob.stats.mouth_to_ear_seconds or 0), 1),
                "cpu_percent_per_end": round(100 * cpu / wall / 2, 2),
                "spoken_seconds": round(match.spoken_seconds, 3),
                "recorded_seconds": round(match.recorded_seconds, 3),
                "packets_lost": bob.stats.packets_lost,
                "packets_late": bob.stats.packets_late,
                "frames_recovered": bob.stats.frames_recovered,
                "frames_concealed": bob.stats.frames_concealed,
            },
            indent=2,
        )
    )


async def _call(spoken: Path, recorded: Path, options: argparse.Namespace):  # type: ignore[no-untyped-def]
    a, b = lossy_lines(
        delay_seconds=options.delay, jitter_seconds=options.jitter, loss=options.loss
    )
    return await asyncio.gather(
        talk(a, source_for(str(spoken)), sink_for("null")),
        talk(b, source_for("null"), sink_for(str(recorded))),
    )


def _repeat(speech: Path, to: Path, seconds: float) -> None:
    sound = b"".join(read_sound(speech))
    wanted = round(seconds * 48_000) * 2
    with wave.open(str(to), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", ""))
        file.writeframes((sound * (wanted // len(sound) + 1))[:wanted])


if __name__ == "__main__":
    main()
