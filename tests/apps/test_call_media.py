from __future__ import annotations

import asyncio
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from knothole.apps.call import Call, talk
from knothole.apps.call_outcome import CallOutcome, CallStats, Ending
from knothole.engine.voice.call import CallState
from knothole.io.audio.backend import AudioError, PacedSink
from knothole.io.audio.file import FileSink, FileSource
from knothole.io.audio.null import NullSink, NullSource
from knothole.io.audio.tone import ToneSource
from knothole.lab.lossy_line import LossyLine, lossy_lines
from knothole.lab.speech import SpeechMatch, compare_files
from knothole.lab.synthetic_voice import synthetic_voice
from knothole.lab.virtual_loop import VirtualLoop, run_virtually

DELAY = 0.02


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds."""
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", ""))
        file.writeframes(synthetic_voice(20.0).tobytes())
    return path


def speak(
    speech: Path,
    recorded: Path,
    *,
    loss: float = 0.0,
    jitter: float = 0.0,
    during: Callable[[LossyLine, LossyLine], None] = lambda a, b: None,
) -> tuple[SpeechMatch, CallOutcome, CallOutcome, float]:
    """Alice speaks, Bob records; also the delay from mouth to ear without the path's."""

    async def main() -> tuple[CallOutcome, CallOutcome]:
        a, b = lossy_lines(delay_seconds=DELAY, jitter_seconds=jitter, loss=loss)
        asyncio.get_running_loop().call_later(8.0, during, a, b)
        return await asyncio.gather(
            talk(a, FileSource(speech), NullSink()),
            talk(b, NullSource(), FileSink(recorded)),
        )

    alice, bob = run_virtually(main())
    match = compare_files(speech, recorded)
    assert alice.source_started_at is not None and bob.sink_started_at is not None
    delay = match.delay_seconds + bob.sink_started_at - alice.source_started_at - DELAY
    return match, alice, bob, delay


def test_what_is_recorded_is_what_was_spoken_70_ms_later(speech: Path, tmp_path: Path) -> None:
    match, alice, bob, delay = speak(speech, tmp_path / "r.wav")
    assert match.correlation > 0.97
    assert match.gaps == () and match.drift_seconds == 0.0
    assert 0.060 < delay < 0.075
    assert alice.ending is Ending.SOURCE_ENDED and bob.ending is Ending.PEER_HUNG_UP
    assert bob.stats.frames_concealed == bob.stats.packets_lost == bob.stats.packets_late == 0


@pytest.mark.parametrize("jitter", [0.0, 0.015])
def test_at_5_percent_loss_the_recording_is_still_alike_and_time_stays_true(
    jitter: float, speech: Path, tmp_path: Path
) -> None:
    match, alice, bob, delay = speak(speech, tmp_path / "r.wav", loss=0.05, jitter=jitter)
    assert match.correlation > 0.95
    assert abs(match.drift_seconds) < 0.001
    assert delay < 0.080
    assert bob.stats.packets_lost > 20
    assert bob.stats.frames_recovered > 15
    assert 0.0 < alice.stats.loss_out < 0.2


def test_a_recording_is_as_long_as_the_call_whatever_is_lost(speech: Path, tmp_path: Path) -> None:
    def cut(a: LossyLine, b: LossyLine) -> None:
        a.loss = b.loss = 1.0
        asyncio.get_running_loop().call_later(3.0, mend, a, b)

    def mend(a: LossyLine, b: LossyLine) -> None:
        a.loss = b.loss = 0.0

    match, _, bob, _ = speak(speech, tmp_path / "r.wav", during=cut)
    assert abs(match.recorded_seconds - match.spoken_seconds - 0.107) < 0.02
    assert match.drift_seconds == 0.0
    assert 2.0 < sum(gap.length_seconds for gap in match.gaps) < 3.1
    assert bob.ending is Ending.PEER_HUNG_UP


def test_a_loop_that_stalls_loses_nothing_of_a_recording(speech: Path, tmp_path: Path) -> None:
    def stall(a: LossyLine, b: LossyLine) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.stall(0.3)

    match, _, bob, _ = speak(speech, tmp_path / "r.wav", during=stall)
    # Both ends stall with it here: what is due is then late on the way, but time stays true.
    assert match.correlation > 0.95
    assert match.drift_seconds == 0.0
    assert bob.stats.packets_lost == 0


def test_numbers_come_once_a_second() -> None:
    async def main() -> tuple[list[CallStats], list[CallStats], CallOutcome]:
        a, b = lossy_lines(delay_seconds=DELAY)
        hers: list[CallStats] = []
        his: list[CallStats] = []
        until = asyncio.Event()
        asyncio.get_running_loop().call_later(5.5, until.set)
        outcomes = await asyncio.gather(
            talk(a, ToneSource(), NullSink(), on_stats=hers.append, until=until),
            talk(b, NullSource(), NullSink(), on_stats=his.append),
        )
        return hers, his, outcomes[1]

    hers, his, outcome = run_virtually(main())
    assert [round(stats.duration_seconds, 3) for stats in hers] == [1.0, 2.0, 3.0, 4.0, 5.0]
    last = his[-1]
    assert last.state is CallState.FLOWING
    assert last.path.kind == "direct"
    assert last.rtt_seconds == pytest.approx(2 * DELAY, abs=1e-5)
    assert last.level_in_db == pytest.approx(-23, abs=1)
    assert last.level_out_db == -127
    assert last.mouth_to_ear_seconds == pytest.approx(0.0895, abs=0.002)
    assert last.loss_in == last.loss_out == 0.0
    assert outcome.text == "the other side hung up"
    assert outcome.stats.duration_seconds == pytest.approx(5.58, abs=0.02)


def test_muting_is_silence_at_the_other_side() -> None:
    async def main() -> list[CallStats]:
        a, b = lossy_lines(delay_seconds=DELAY)
        his: list[CallStats] = []
        until = asyncio.Event()
        alice = Call(a, ToneSource(), NullSink())
        loop = asyncio.get_running_loop()
        loop.call_later(2.5, alice.mute, True)
        loop.call_later(6.5, alice.mute, False)
        loop.call_later(9.5, until.set)
        await asyncio.gather(
            alice.run(until), talk(b, NullSource(), NullSink(), on_stats=his.append)
        )
        return his

    his = run_virtually(main())
    assert [stats.state for stats in his] == [CallState.FLOWING] * 2 + [CallState.MUTED] * 4 + [
        CallState.FLOWING
    ] * 3
    levels = [round(stats.level_in_db) for stats in his]
    assert levels[:2] == levels[-2:] == [-23, -23]
    assert levels[3:6] == [-127] * 3
    assert his[-1].frames_concealed == 0


def test_a_side_that_vanishes_is_noticed_within_5_seconds() -> None:
    async def main() -> tuple[CallOutcome, float]:
        a, b = lossy_lines(delay_seconds=DELAY)
        loop = asyncio.get_running_loop()
        alice = asyncio.create_task(talk(a, ToneSource(), NullSink()))
        bob = asyncio.create_task(talk(b, NullSource(), NullSink()))
        await asyncio.sleep(3)
        a.loss = 1.0
        alice.cancel()
        began = loop.time()
        outcome = await bob
        return outcome, loop.time() - began

    outcome, seconds = run_virtually(main())
    assert outcome.ending is Ending.PEER_GONE and outcome.ending.is_failure
    assert "the other side is gone" in outcome.text
    assert seconds < 5


def test_a_cancelled_call_leaves_a_whole_recording_and_tells_the_other_side(
    speech: Path, tmp_path: Path
) -> None:
    recorded = tmp_path / "r.wav"

    async def main() -> CallOutcome:
        a, b = lossy_lines(delay_seconds=DELAY)
        alice = asyncio.create_task(talk(a, FileSource(speech), NullSink()))
        bob = asyncio.create_task(talk(b, NullSource(), FileSink(recorded)))
        await asyncio.sleep(4.5)
        bob.cancel()
        with pytest.raises(asyncio.CancelledError):
            await bob
        return await alice

    outcome = run_virtually(main())
    assert outcome.ending is Ending.PEER_HUNG_UP
    assert outcome.stats.duration_seconds < 4.6
    with wave.open(str(recorded)) as file:
        assert abs(file.getnframes() - 4.5 * 48_000) < 2000
    assert compare_files(speech, recorded).windowed_correlation > 0.2


def test_after_its_file_a_side_may_stay_and_listen(speech: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.wav"
    with wave.open(str(short), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", ""))
        file.writeframes(synthetic_voice(2.0).tobytes())

    async def main() -> tuple[CallOutcome, CallOutcome]:
        a, b = lossy_lines(delay_seconds=DELAY)
        return await asyncio.gather(
            talk(a, FileSource(speech), NullSink()),
            talk(b, FileSource(short), NullSink(), end_with_source=False),
        )

    alice, bob = run_virtually(main())
    assert alice.ending is Ending.SOURCE_ENDED
    assert alice.stats.duration_seconds > 20
    assert alice.stats.frames_concealed == 0
    assert bob.source_started_at == pytest.approx(1000.02, abs=0.001)


def test_a_line_that_breaks_is_said_with_its_reason() -> None:
    async def main() -> CallOutcome:
        a, b = lossy_lines(delay_seconds=DELAY)
        asyncio.get_running_loop().call_later(2.0, b.close)
        return await talk(a, NullSource(), NullSink())

    outcome = run_virtually(main())
    assert outcome.ending is Ending.LINE_LOST
    assert outcome.text == "the line is lost: closed by the other end"


def test_a_line_that_is_closed_after_the_end_is_no_loss(speech: Path, tmp_path: Path) -> None:
    recorded = tmp_path / "r.wav"

    async def main() -> CallOutcome:
        a, b = lossy_lines(delay_seconds=DELAY)

        async def alice() -> None:
            await talk(a, FileSource(speech), NullSink())
            a.close()

        _, outcome = await asyncio.gather(alice(), talk(b, NullSource(), FileSink(recorded)))
        return outcome

    assert run_virtually(main()).ending is Ending.PEER_HUNG_UP
    match = compare_files(speech, recorded)
    assert match.recorded_seconds > match.spoken_seconds + 0.08


class FullDisk(PacedSink):
    def write(self, samples: bytes) -> None:
        if self._samples > 48_000:
            raise OSError(28, "No space left on device")


def test_a_full_disk_ends_the_call_at_both_sides_and_says_why() -> None:
    async def main() -> tuple[CallOutcome, CallOutcome]:
        a, b = lossy_lines(delay_seconds=DELAY)
        return await asyncio.gather(
            talk(a, ToneSource(), NullSink()), talk(b, NullSource(), FullDisk())
        )

    alice, bob = run_virtually(main())
    assert bob.ending is Ending.TROUBLE and "No space left" in bob.text
    assert alice.ending is Ending.PEER_TROUBLE
    assert alice.stats.duration_seconds < 1.5


def test_a_source_that_cannot_be_opened_raises_before_anything_is_sent(tmp_path: Path) -> None:
    recorded = tmp_path / "r.wav"

    async def main() -> LossyLine:
        a, _ = lossy_lines()
        with pytest.raises(AudioError, match="there is no such file"):
            await talk(a, FileSource(tmp_path / "none.wav"), FileSink(recorded))
        return a

    assert run_virtually(main()).sent == 0
    assert not recorded.exists()


def test_the_encoder_is_told_what_the_other_side_loses() -> None:
    async def main() -> list[int]:
        a, b = lossy_lines(delay_seconds=DELAY)
        percents: list[int] = []
        alice = Call(
            a,
            ToneSource(),
            NullSink(),
            on_stats=lambda stats: percents.append(alice._encoder.packet_loss_percent),
        )
        loop = asyncio.get_running_loop()
        until = asyncio.Event()
        loop.call_later(2.5, setattr, a, "loss", 0.25)
        loop.call_later(6.5, setattr, a, "loss", 0.0)
        loop.call_later(20.5, until.set)
        await asyncio.gather(alice.run(until), talk(b, NullSource(), NullSink()))
        return percents

    percents = run_virtually(main())
    assert percents[1] == percents[-1] == 10
    assert max(percents) > 20


def test_a_minute_of_noise_on_the_line_is_nothing_to_the_call() -> None:
    async def main() -> CallOutcome:
        a, b = lossy_lines(delay_seconds=DELAY)
        random = np.random.default_rng(7)
        loop = asyncio.get_running_loop()
        for number in range(3000):
            rubbish = bytes([random.choice([0x10, 0x11, 0x20, 0xFF])]) + random.bytes(
                int(random.integers(60))
            )
            loop.call_later(number * 0.02, a._arrived.put_nowait, rubbish)
        until = asyncio.Event()
        loop.call_later(60.0, until.set)
        outcome, _ = await asyncio.gather(
            talk(a, NullSource(), NullSink(), until=until), talk(b, NullSource(), NullSink())
        )
        return outcome

    assert run_virtually(main()).ending is Ending.HUNG_UP
