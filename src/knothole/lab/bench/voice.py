"""A call over a line in memory, in real time: likeness, mouth-to-ear delay and CPU.

One end speaks, the other records; both send, as both ends of a call do. The reference for CPU is
libopus alone, coding and decoding the same speech and the same silence in the same run: what
remains is the price of doing it as a call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from knothole.apps.call import LEAST_LOSS_PERCENT, talk
from knothole.apps.call_outcome import CallOutcome
from knothole.io.audio import sink_for, source_for
from knothole.io.audio.backend import FRAME_BYTES
from knothole.io.audio.file import read_sound
from knothole.io.opus import OpusDecoder, OpusEncoder
from knothole.lab.lossy_line import lossy_lines
from knothole.lab.speech import compare_files
from knothole.lab.synthetic_voice import synthetic_voice
from knothole.wire.voice import FRAME_SECONDS, SAMPLE_RATE

SPEECH: Final = Path(__file__).parents[2] / "data" / "speech.wav"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev bench voice", description=__doc__)
    parser.add_argument("--speech", type=Path, default=SPEECH, help="a sound file")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each call")
    parser.add_argument("--delay", type=float, default=0.02, help="of the path one way, seconds")
    parser.add_argument("--jitter", type=float, default=0.0, help="at most, seconds")
    parser.add_argument("--loss", type=float, nargs="*", default=[0.0, 0.05], help="fractions")
    parser.add_argument("--plain-asyncio", action="store_true", help="without uvloop")
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        spoken = Path(folder, "spoken.wav")
        _say(options.speech, spoken, options.seconds)
        codec = _codec_alone(spoken)
        for loss in options.loss:
            _print(_measure(spoken, Path(folder, "recorded.wav"), loss, codec, options), options)
    return 0


def _measure(
    spoken: Path, recorded: Path, loss: float, codec: float, options: argparse.Namespace
) -> dict[str, Any]:
    cpu, wall = time.process_time(), time.monotonic()
    alice, bob = _runner(options.plain_asyncio)(_call(spoken, recorded, loss, options))
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    match = compare_files(spoken, recorded)
    assert alice.source_started_at is not None and bob.sink_started_at is not None
    mouth_to_ear = match.delay_seconds + bob.sink_started_at - alice.source_started_at
    return {
        "loss": loss,
        "correlation": match.correlation,
        "gaps": len(match.gaps),
        "drift_ms": 1000 * match.drift_seconds,
        "mouth_to_ear_above_path_ms": 1000 * (mouth_to_ear - options.delay),
        "cpu_per_end": cpu / wall / 2,
        "reference_cpu_per_end": codec / 2,
        "ratio": cpu / wall / codec,
        "packets_lost": bob.stats.packets_lost,
        "packets_late": bob.stats.packets_late,
        "frames_recovered": bob.stats.frames_recovered,
        "frames_concealed": bob.stats.frames_concealed,
    }


def _print(result: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['loss']:.0%} loss")
    print(f"  correlation {result['correlation']:.3f}, {result['gaps']} gaps", end="")
    print(f", {result['frames_recovered']} frames recovered", end="")
    print(f", {result['frames_concealed']} made up, {result['packets_late']} packets late")
    print(f"  mouth to ear {result['mouth_to_ear_above_path_ms']:.1f} ms and the path")
    print(
        f"  CPU per end {result['cpu_per_end']:.2%}, the codec alone "
        f"{result['reference_cpu_per_end']:.2%}: ratio {result['ratio']:.2f}"
    )


async def _call(
    spoken: Path, recorded: Path, loss: float, options: argparse.Namespace
) -> tuple[CallOutcome, CallOutcome]:
    alice, bob = lossy_lines(delay_seconds=options.delay, jitter_seconds=options.jitter, loss=loss)
    return await asyncio.gather(
        talk(alice, source_for(str(spoken)), sink_for("null")),
        talk(bob, source_for("null"), sink_for(str(recorded))),
    )


def _codec_alone(spoken: Path) -> float:
    """The fraction of a core that coding and decoding take: speech one way, silence the other."""
    sound = b"".join(read_sound(spoken))
    silence = bytes(FRAME_BYTES)
    coders = [(OpusEncoder(), OpusDecoder()) for _ in range(2)]
    for encoder, _ in coders:
        encoder.packet_loss_percent = LEAST_LOSS_PERCENT
    began = time.process_time()
    for start in range(0, len(sound), FRAME_BYTES):
        frame = sound[start : start + FRAME_BYTES].ljust(FRAME_BYTES, b"\0")
        for (encoder, decoder), said in zip(coders, (frame, silence), strict=True):
            decoder.decode(encoder.encode(said))
    return (time.process_time() - began) / (len(sound) / FRAME_BYTES * FRAME_SECONDS)


def _say(speech: Path, to: Path, seconds: float) -> None:
    """Write so many seconds of the speech, again and again, or of something like it."""
    if speech.exists():
        sound = b"".join(read_sound(speech))
    else:
        sound = synthetic_voice(min(seconds, 20.0)).tobytes()
    wanted = round(seconds * SAMPLE_RATE) * 2
    with wave.open(str(to), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((sound * (wanted // len(sound) + 1))[:wanted])


def _runner(plain: bool) -> Any:
    if not plain:
        try:
            import uvloop

            return uvloop.run
        except ImportError:
            pass
    return asyncio.run
