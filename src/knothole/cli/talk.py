"""The call while it lasts: what a person sees of it, and what a program."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from knothole.apps.call import Call
from knothole.apps.call_outcome import CallOutcome, CallStats
from knothole.cli.output import Output
from knothole.cli.session import interrupt_sets, path_facts
from knothole.cli.sound import Sound
from knothole.cli.terminal import END_OF_INPUT, LiveLine, is_interactive, single_keys
from knothole.engine.voice.call import CallState
from knothole.peer.line import Line, Path

PLAIN_SECONDS: Final = 10  # ours: how often a line is printed where it cannot be overwritten
QUIETEST_DB: Final = -60.0
_BARS: Final = " ▁▂▃▄▅▆▇█"
_METER: Final = 5


async def talk(
    output: Output, line: Line, sound: Sound, *, end_with_source: bool, interruptible: bool
) -> CallOutcome:
    """Talk over ``line`` until it is over, and show how it goes.

    On a terminal q hangs up and m mutes; with ``interruptible`` Ctrl-C hangs up too. What it came
    to is printed. Raises AudioError.
    """
    call = Call(
        line,
        sound.source,
        sound.sink,
        on_stats=(display := _display(output, line)).show,
        end_with_source=end_with_source,
        in_step=not line.incoming,
    )
    hang_up = asyncio.Event()
    with contextlib.ExitStack() as around:
        if interruptible:
            around.enter_context(interrupt_sets(hang_up))
        around.enter_context(display.on_screen(call, hang_up))
        talking = asyncio.create_task(call.run(hang_up))
        try:
            outcome = await asyncio.shield(talking)
        except asyncio.CancelledError:  # the program is to end: the other side hears of it first
            hang_up.set()
            await asyncio.gather(talking, return_exceptions=True)
            raise
        finally:
            talking.cancel()
    _tell(output, line, outcome)
    return outcome


class _Display:
    """For programs: an object a second. The path is told whenever it has changed."""

    def __init__(self, output: Output, line: Line) -> None:
        self._output = output
        self._line = line
        self._path: Path | None = line.path
        self._muted = False

    def show(self, stats: CallStats) -> None:
        """Show the call as it is now."""
        before, self._path = self._path, stats.path
        if before is None or (before.kind, before.remote) != (stats.path.kind, stats.path.remote):
            text = f"The path is now {stats.path}"
            self._output.note("path", text, **path_facts(stats.path))
        self._show(stats)

    def _show(self, stats: CallStats) -> None:
        self._output.result("stats", "", **stats_facts(stats))

    @contextlib.contextmanager
    def on_screen(self, call: Call, hang_up: asyncio.Event) -> Iterator[None]:
        """Take part of the screen while the call lasts."""
        yield


class _PlainDisplay(_Display):
    """A line now and then."""

    def __init__(self, output: Output, line: Line) -> None:
        super().__init__(output, line)
        self._seconds = 0  # counted, not measured: who is late leaves no line out

    def _show(self, stats: CallStats) -> None:
        if self._seconds % PLAIN_SECONDS == 0:  # the first one soon
            self._output.result("stats", stats_text(stats, self._line.peer_name))
        self._seconds += 1


class _LiveDisplay(_Display):
    """One line that changes, and keys."""

    def __init__(self, output: Output, line: Line) -> None:
        super().__init__(output, line)
        self._live = LiveLine()

    def _show(self, stats: CallStats) -> None:
        self._live.change(stats_text(stats, self._line.peer_name))

    @contextlib.contextmanager
    def on_screen(self, call: Call, hang_up: asyncio.Event) -> Iterator[None]:
        def press(key: str) -> None:
            if key in ("q", "Q", END_OF_INPUT):
                hang_up.set()
            elif key in ("m", "M"):
                self._muted = not self._muted
                call.mute(self._muted)

        self._live.change(f"{clock(0)}  talking with {self._line.peer_name}")
        with single_keys(press), self._output.above(self._live):
            yield


def _display(output: Output, line: Line) -> _Display:
    if output.json:
        return _Display(output, line)
    return _LiveDisplay(output, line) if is_interactive() else _PlainDisplay(output, line)


def _tell(output: Output, line: Line, outcome: CallOutcome) -> None:
    stats = outcome.stats
    frames = stats.frames_played + stats.frames_recovered + stats.frames_concealed
    missed = stats.frames_concealed / frames if frames else 0.0
    text = outcome.text[0].upper() + outcome.text[1:]
    output.result(
        "over",
        f"{text}. {clock(stats.duration_seconds)} {stats.path.kind}{_rtt(stats)}, "
        f"{missed:.1%} of what was heard concealed.",
        peer=line.peer_name,
        ending=outcome.ending.value,
        why=outcome.text,
        source_started_at=outcome.source_started_at,
        sink_started_at=outcome.sink_started_at,
        **stats_facts(stats),
    )


def _rtt(stats: CallStats) -> str:
    return "" if stats.rtt_seconds is None else f", rtt {stats.rtt_seconds * 1000:.0f} ms"


def stats_text(stats: CallStats, name: str) -> str:
    """How the call goes, in one line: what a narrow terminal may cut off comes last."""
    ours = "muted" if stats.muted else meter(stats.level_out_db)
    theirs = {CallState.MUTED: "muted", CallState.SILENT: "not heard"}.get(
        stats.state, meter(stats.level_in_db)
    )
    parts = [clock(stats.duration_seconds), stats.path.kind, f"you {ours}", f"{name} {theirs}"]
    if stats.rtt_seconds is not None:
        parts.append(f"rtt {stats.rtt_seconds * 1000:.0f} ms")
    if stats.mouth_to_ear_seconds is not None:
        parts.append(f"delay {stats.mouth_to_ear_seconds * 1000:.0f} ms")
    parts.append(f"loss in {stats.loss_in:.1%} out {stats.loss_out:.1%}")
    return "  ".join(parts)


def stats_facts(stats: CallStats) -> dict[str, object]:
    """How the call goes, as the ``--json`` objects have it: the same names, times in ms."""
    facts: dict[str, object] = {}
    for name, value in asdict(stats).items():
        match name:
            case "path":
                facts |= path_facts(stats.path)
            case "state":
                facts["state"] = stats.state.value
            case "duration_seconds":
                facts[name] = round(stats.duration_seconds, 3)
            case _ if name.endswith("_seconds"):
                in_ms = None if value is None else round(value * 1000, 3)
                facts[name.removesuffix("_seconds") + "_ms"] = in_ms
            case _:
                facts[name] = round(value, 4) if isinstance(value, float) else value
    return facts


def meter(level_db: float) -> str:
    """A level as five blocks, from -60 dB up to full scale."""
    filled = (1 - max(QUIETEST_DB, min(0.0, level_db)) / QUIETEST_DB) * _METER
    steps = len(_BARS) - 1
    eighths = [max(0.0, min(1.0, filled - block)) for block in range(_METER)]
    return "[" + "".join(_BARS[round(part * steps)] for part in eighths) + "]"


def clock(seconds: float) -> str:
    """A duration as people read it."""
    minutes, rest = divmod(int(seconds), 60)
    return (
        f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
    )
