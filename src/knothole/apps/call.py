"""Talking: a source and a sink of sound joined to a line for the length of a call.

Whoever wants to call has rung and been answered before; this is what both sides then run.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from types import TracebackType
from typing import Final, Protocol

from knothole.apps.call_outcome import CallOutcome, CallStats, Ending, describe
from knothole.engine.voice.call import (
    CallEnded,
    CallState,
    LossReported,
    PeerReady,
    SendPacket,
    StateChanged,
    VoiceCall,
)
from knothole.engine.voice.jitter import CALM_DELAY_SECONDS, FIRST_DELAY_SECONDS
from knothole.io.audio.backend import SAMPLE_BYTES, AudioError, Sink, Source
from knothole.io.audio.echo import VoiceProcessor, voice_processor
from knothole.io.audio.null import NullSource
from knothole.io.opus import OpusDecoder, OpusEncoder
from knothole.peer.errors import LineClosed
from knothole.peer.line import Path
from knothole.wire.voice import FRAME_SECONDS, MEDIA_HEADER_BYTES, SAMPLE_RATE, EndReason

STATS_SECONDS: Final = 1.0
LEAST_LOSS_PERCENT: Final = 10  # keeps the encoder's error correction on: it costs bits, no delay
_MOST_LOSS_PERCENT: Final = 30
_LOSS_DECAY: Final = 0.8  # a report: a burst is prepared for during the next seconds

log = logging.getLogger(__name__)


class DatagramLine(Protocol):
    """What a call needs of a line: unreliable datagrams. :class:`knothole.peer.line.Line` is one.

    ``send_datagram`` raises LineClosed when the line is over.
    """

    @property
    def path(self) -> Path: ...
    @property
    def max_datagram_size(self) -> int: ...
    def send_datagram(self, data: bytes) -> None: ...
    def deliver_to(self, receiver: Callable[[bytes], None] | None) -> None: ...
    async def wait_closed(self) -> str: ...


async def talk(
    line: DatagramLine,
    source: Source,
    sink: Sink,
    *,
    on_stats: Callable[[CallStats], None] | None = None,
    until: asyncio.Event | None = None,
    end_with_source: bool = True,
) -> CallOutcome:
    """Talk over ``line`` until one side ends it; both sides have to begin within 4.5 s.

    ``source`` and ``sink`` are opened where they are not, and closed in any case, also when this
    is cancelled: recordings are whole. ``on_stats`` is called once a second. ``until`` hangs up
    when it is set; so does the end of a file as source, unless ``end_with_source`` is False: then
    silence follows. The line is left open.

    Raises AudioError when the source or the sink cannot be opened or started.
    """
    call = Call(line, source, sink, on_stats=on_stats, end_with_source=end_with_source)
    return await call.run(until)


class _Watched:
    """Whatever fails inside is told to ``failed``: callbacks have nobody to raise to."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._failed(error)
        return True


class Call:
    """What :func:`talk` runs, for whoever wants to mute or hang up by a method."""

    def __init__(
        self,
        line: DatagramLine,
        source: Source,
        sink: Sink,
        *,
        on_stats: Callable[[CallStats], None] | None = None,
        end_with_source: bool = True,
        in_step: bool = False,
    ) -> None:
        """With ``in_step`` the source falls into step with what comes, if it can. Only one side of
        a call may: it would chase the other round the path."""
        self._line = line
        self._source = source
        self._sink = sink
        self._on_stats = on_stats
        self._end_with_source = end_with_source
        self._watched = _Watched(self._fail)
        self._in_step = in_step
        self._muted = False
        self._reason = EndReason.HUNG_UP
        self._spoken_since: float | None = None
        self._loss = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = math.inf
        self._stats_timer: asyncio.TimerHandle | None = None
        self._processor: VoiceProcessor | None = None

    def mute(self, muted: bool) -> None:
        """Stop (or go on) sending what the source hears; the other side is told."""
        self._muted = muted

    def hang_up(self) -> None:
        """End the call; :meth:`run` returns as soon as the other side knows, or after 0.6 s."""
        self._end(EndReason.HUNG_UP)

    async def run(self, until: asyncio.Event | None = None) -> CallOutcome:
        """See :func:`talk`. To be called once."""
        try:
            await self._source.open()
            await self._sink.open()
            outcome = await self._run(until)
        finally:
            self._source.close()
            trouble = self._close_sink()
        if trouble is not None and not outcome.ending.is_failure:
            outcome = replace(outcome, ending=Ending.TROUBLE, text=trouble)
        return outcome

    async def _run(self, until: asyncio.Event | None) -> CallOutcome:
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._done: asyncio.Future[tuple[Ending, str]] = self._loop.create_future()
        self._encoder = OpusEncoder()
        self._encoder.packet_loss_percent = LEAST_LOSS_PERCENT
        if self._source.is_device and self._sink.is_device:
            latency = self._source.latency_seconds + self._sink.latency_seconds
            self._processor = voice_processor(delay_seconds=latency)
        calm = CALM_DELAY_SECONDS if self._sink.is_device else FIRST_DELAY_SECONDS
        self._call = VoiceCall(OpusDecoder(), now=self._started_at, calm_delay_seconds=calm)
        tasks = [self._loop.create_task(self._wait_closed())]
        if until is not None:
            tasks.append(self._loop.create_task(self._watch(until)))
        try:
            self._line.deliver_to(self._receive)
            self._sink.start(self._pull, self._sink_stopped)
            with self._watched:
                self._drain()
            self._arm_stats(1)
            ending, text = await self._done
        except asyncio.CancelledError:
            self._end(EndReason.HUNG_UP)
            raise
        except Exception:
            self._end(EndReason.TROUBLE)
            raise
        finally:
            self._line.deliver_to(None)
            for timer in (self._timer, self._stats_timer):
                if timer is not None:
                    timer.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return CallOutcome(ending, text, self._stats(), self._spoken_since, self._sink.started_at)

    # -------------------------------------------------------------- from the line, and time

    def _receive(self, payload: bytes) -> None:
        with self._watched:
            self._call.receive(payload, self._loop.time())
            self._sink.nudge()
            if self._in_step:
                self._source.nudge()
            self._drain()

    async def _wait_closed(self) -> None:
        with self._watched:
            raise LineClosed(await self._line.wait_closed())

    async def _watch(self, until: asyncio.Event) -> None:
        await until.wait()
        self.hang_up()

    def _on_timer(self) -> None:
        self._timer = None
        with self._watched:
            # A loop that counts milliseconds may wake a little early; the deadline counts.
            self._call.handle_timeout(max(self._loop.time(), self._armed_for))
            self._drain()

    def _arm_stats(self, number: int) -> None:
        at = self._started_at + number * STATS_SECONDS
        self._stats_timer = self._loop.call_at(at, self._tell, number)

    def _tell(self, number: int) -> None:
        self._arm_stats(number + 1)
        if self._on_stats is not None:
            with self._watched:
                self._on_stats(self._stats())

    # -------------------------------------------------------------- from source and sink

    def _push(self, frame: bytes) -> None:
        with self._watched:
            if self._processor is not None:
                frame = self._processor.clean(frame)
            payload = b""
            if not self._muted:
                most = self._line.max_datagram_size - MEDIA_HEADER_BYTES
                payload = self._encoder.encode(frame, most)
            self._call.speak(payload, frame, self._loop.time())
            self._drain()

    def _pull(self, count: int, now: float) -> bytes:
        samples = bytes(count * SAMPLE_BYTES)
        with self._watched:
            samples = self._call.pull(count, now)
            if self._processor is not None:
                self._processor.played(samples)
            self._drain()
        return samples

    def _source_stopped(self, error: Exception | None) -> None:
        if error is not None:
            self._give_up(error)
        elif self._end_with_source:
            self._end(EndReason.SOURCE_ENDED)
        else:
            self._source.close()
            self._source = NullSource()
            self._source.start(self._push, self._source_stopped)

    def _sink_stopped(self, error: Exception | None) -> None:
        self._give_up(error or AudioError("the sink has stopped"))

    def _close_sink(self) -> str | None:
        try:
            self._sink.close()
        except (AudioError, OSError) as error:
            log.warning("the recording is not whole: %s", error)
            return str(error)
        return None

    # -------------------------------------------------------------- to the engine, and out

    def _end(self, reason: EndReason) -> None:
        self._reason = reason
        with self._watched:
            self._call.end(reason, self._loop.time())
            self._drain()

    def _drain(self) -> None:
        for output in self._call.outputs():
            match output:
                case SendPacket(payload):
                    self._line.send_datagram(payload)
                case PeerReady():
                    # From here on nothing that is said is lost for want of a listener.
                    self._source.start(self._push, self._source_stopped)
                    self._spoken_since = self._source.started_at
                case LossReported(fraction):
                    self._prepare_for(fraction)
                case StateChanged(state):
                    log.debug("call: %s", state.value)
                case CallEnded():
                    self._finish(*describe(output))
        deadline = self._call.next_timeout()
        if deadline is None or (self._timer is not None and self._armed_for <= deadline):
            return  # an early wake-up finds nothing due and arms the timer again
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = deadline
        self._timer = self._loop.call_at(deadline, self._on_timer)

    def _prepare_for(self, loss: float) -> None:
        self._loss = max(loss, self._loss * _LOSS_DECAY)
        percent = math.ceil(100 * self._loss)
        self._encoder.packet_loss_percent = min(
            _MOST_LOSS_PERCENT, max(LEAST_LOSS_PERCENT, percent)
        )

    def _fail(self, error: Exception) -> None:
        if isinstance(error, LineClosed):
            self._line_closed(error)
        elif isinstance(error, (AudioError, OSError)):
            self._give_up(error)
        elif not self._done.done():
            self._done.set_exception(error)

    def _line_closed(self, error: LineClosed) -> None:
        match self._call.state:
            case CallState.DRAINING:
                pass  # the other side has ended and gone; what it said is still played
            case CallState.CLOSING:
                self._finish(*describe(CallEnded(by_peer=False, reason=self._reason)))
            case _:
                self._finish(Ending.LINE_LOST, f"the line is lost: {error}")

    def _give_up(self, error: Exception) -> None:
        self._finish(Ending.TROUBLE, str(error))
        self._end(EndReason.TROUBLE)

    def _finish(self, ending: Ending, text: str) -> None:
        if not self._done.done():
            self._done.set_result((ending, text))

    def _stats(self) -> CallStats:
        measured = self._call.measure()
        mouth_to_ear = None
        if measured.rtt_seconds is not None:
            mouth_to_ear = (
                FRAME_SECONDS
                + self._encoder.lookahead_samples / SAMPLE_RATE
                + measured.rtt_seconds / 2
                + measured.playout_delay_seconds
                + self._sink.latency_seconds
            )
        return CallStats(
            duration_seconds=self._loop.time() - self._started_at,
            path=self._line.path,
            muted=self._muted,
            mouth_to_ear_seconds=mouth_to_ear,
            **asdict(measured),
        )
