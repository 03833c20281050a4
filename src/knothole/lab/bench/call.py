"""A spoken call between two NATs of the kernel: what arrives, how late, and what it costs.

Alice speaks a WAV file, Bob records; both are real programs. The recording is compared with what
was spoken; the delay from mouth to ear comes from both programs' own start times (one machine, one
clock), less the path's one-way delay. The reference for CPU is the codec alone, encoding and
decoding the same speech in the same run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from knothole.io.audio.file import read_sound
from knothole.io.opus import OpusDecoder, OpusEncoder
from knothole.lab.netns.line import LineSettings
from knothole.lab.programs import Program
from knothole.lab.recovery import Town
from knothole.lab.speech import compare_files
from knothole.lab.stage import START_SECONDS
from knothole.wire.voice import FRAME_SAMPLES

SPARE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One call. CPU in parts of one core."""

    correlation: float
    windowed_correlation: float
    mouth_to_ear_seconds: float
    speaker_cpu: float
    listener_cpu: float
    path: str
    concealed: float


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev bench call", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--loss", type=float, action="append", help="per cent on each call's path")
    parser.add_argument("--nat", default="linux", help="kind of both NATs")
    parser.add_argument("--one-way", type=float, default=10.0, help="ms to the internet, each")
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="knothole-call-") as folder:
        spoken = _speech(Path(folder) / "spoken.wav", options.seconds)
        codec = _codec_alone(spoken)
        for number, loss in enumerate(options.loss or [0.0, 5.0]):
            place = Path(folder) / str(number)
            place.mkdir()
            _tell(options, loss, codec, _call(place, spoken, options, loss))
    return 0


def _tell(options: argparse.Namespace, loss: float, codec: float, call: Measured) -> None:
    path_ms = 2 * options.one_way
    beyond_ms = call.mouth_to_ear_seconds * 1000 - path_ms
    if options.json:
        facts = {
            "loss_percent": loss,
            "correlation": call.correlation,
            "windowed_correlation": call.windowed_correlation,
            "mouth_to_ear_ms": call.mouth_to_ear_seconds * 1000,
            "beyond_the_path_ms": beyond_ms,
            "speaker_cpu": call.speaker_cpu,
            "listener_cpu": call.listener_cpu,
            "codec_cpu": codec,
            "path": call.path,
        }
        print(json.dumps(facts), flush=True)
        return
    print(f"{options.seconds:.0f} s between two {options.nat} NATs, {loss:g} % loss: {call.path}")
    print(
        f"  correlation           {call.correlation:.3f}   "
        f"(aligned every 2 s: {call.windowed_correlation:.3f}; concealed {call.concealed:.1%})"
    )
    print(
        f"  mouth to ear          {call.mouth_to_ear_seconds * 1000:.0f} ms, "
        f"{beyond_ms:.0f} ms beyond the path's {path_ms:.0f} ms"
    )
    print(
        f"  CPU of a core         {call.speaker_cpu:.1%} speaking, {call.listener_cpu:.1%} "
        f"listening; the codec alone {codec:.1%}: ratio "
        f"{(call.speaker_cpu + call.listener_cpu) / codec:.1f}",
        flush=True,
    )


def _call(folder: Path, spoken: Path, options: argparse.Namespace, loss: float) -> Measured:
    recorded = folder / "recorded.wav"
    nats = (options.nat, options.nat)
    with Town(folder, nats=nats, one_way_ms=options.one_way, listen=False) as stage:
        listening = ["listen", "--answer", "--once", "--in", "null", "--out", str(recorded)]
        bob = stage.start("bob", *listening)
        bob.expect("ready", timeout=START_SECONDS)
        # Loss is that of the whole path, so half of it on each client's line.
        settings = LineSettings(one_way_seconds=options.one_way / 1000, loss=loss / 200)
        for name in ("alice", "bob"):
            stage.lab.set_line(name, settings)
        alice = stage.start("alice", "call", "bob", "--in", str(spoken), "--out", "null")
        alice.expect("answered", timeout=START_SECONDS)
        started = time.monotonic()
        before = [_cpu_seconds(program) for program in (alice, bob)]
        time.sleep(options.seconds * 0.9)
        after = [_cpu_seconds(program) for program in (alice, bob)]
        lasted = time.monotonic() - started
        said = alice.expect("over", timeout=options.seconds + SPARE_SECONDS)
        heard = bob.expect("over", timeout=SPARE_SECONDS)
        bob.wait(SPARE_SECONDS)
    match = compare_files(spoken, recorded)
    delay = heard["sink_started_at"] + match.delay_seconds - said["source_started_at"]
    frames = heard["frames_played"] + heard["frames_recovered"] + heard["frames_concealed"]
    return Measured(
        match.correlation,
        match.windowed_correlation,
        delay,
        (after[0] - before[0]) / lasted,
        (after[1] - before[1]) / lasted,
        str(heard["path"]),
        heard["frames_concealed"] / frames,
    )


def _speech(path: Path, seconds: float) -> Path:
    """The sample of the package, again and again for so long."""
    with (
        as_file(files("knothole") / "data" / "speech.wav") as sample,
        wave.open(str(sample)) as one,
    ):
        parameters, content = one.getparams(), one.readframes(one.getnframes())
    wanted = int(seconds * parameters.framerate) * parameters.sampwidth * parameters.nchannels
    with wave.open(str(path), "wb") as whole:
        whole.setparams(parameters)
        whole.writeframes((content * (wanted // len(content) + 1))[:wanted])
    return path


def _codec_alone(spoken: Path) -> float:
    """CPU seconds that encoding and decoding take for a second of the speech."""
    samples = b"".join(read_sound(spoken))
    encoder, decoder = OpusEncoder(), OpusDecoder()
    size = FRAME_SAMPLES * 2
    frames = [samples[at : at + size] for at in range(0, len(samples) - size + 1, size)]
    started = time.process_time()
    for frame in frames:
        decoder.decode(encoder.encode(frame))
    return (time.process_time() - started) / (len(frames) * 0.02)


def _cpu_seconds(program: Program) -> float:
    """User and system time that a program has taken so far."""
    fields = Path(f"/proc/{program.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
