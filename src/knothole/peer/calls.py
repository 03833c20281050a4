"""Every call and line of a peer: what the engine says of them, as objects for the application."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from knothole.engine.endpoint.endpoint import Endpoint
from knothole.engine.endpoint.events import (
    CallOver,
    CallRefused,
    CallReplaced,
    EndpointOutput,
    HistoryChanged,
    IncomingCall,
    LineEvent,
    LinePath,
    LineReady,
    LineSecured,
    LineSilent,
    RemoteRinging,
)
from knothole.engine.endpoint.history import CallHistory
from knothole.peer.accept import Taking
from knothole.peer.call import OutgoingRing, RefusedCall, Ring
from knothole.peer.last_lines import Diary
from knothole.peer.line import Line
from knothole.peer.news import News
from knothole.peer.reasons import call_error
from knothole.peer.remember import Memory
from knothole.wire.signal.values import Reason

log = logging.getLogger(__name__)

LINES_KEPT: Final = 64
"""Lines that came and were not asked for yet; a further caller is told that we are busy."""

REFUSED_KEPT: Final = 64  # refused calls that nobody has asked about yet; the oldest go first

T = TypeVar("T")


class Command(Protocol):
    """Runs ``do(now)`` and carries out what follows from it."""

    def __call__(self, do: Callable[[float], T], /) -> T: ...


class Calls:
    """The calls of one endpoint.

    ``takes`` decides about each incoming call by name, app and whether the key is remembered.
    With ``ask`` a call between people becomes a :class:`Ring`. ``news`` tells of arrivals.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        command: Command,
        takes: Callable[[IncomingCall], Taking],
        memory: Memory,
        diary: Diary,
        news: News,
        *,
        ask: bool,
    ) -> None:
        self.arrived: deque[Line] = deque()
        self.arrived_rings: deque[Ring] = deque()
        self.refused: deque[RefusedCall] = deque(maxlen=REFUSED_KEPT)
        self._endpoint = endpoint
        self._command = command
        self._takes = takes
        self._memory = memory
        self._diary = diary
        self._news = news
        self._ask = ask
        self._lines: dict[bytes, Line] = {}
        self._calling: dict[bytes, OutgoingRing] = {}
        self._rings: dict[bytes, Ring] = {}

    def call(self, name: str, kind: str, app: str) -> OutgoingRing:
        """Call ``name``."""
        call_id = self._command(lambda now: self._endpoint.call(name, kind, app, now))
        ring = OutgoingRing(name, lambda: self._cancel(ring))
        self._calling[call_id] = ring
        return ring

    def settled(self) -> None:
        """The engine has had its turn: wake who waits for room to write."""
        for line in self._lines.values():
            line._progress()

    def event(self, event: EndpointOutput) -> bool:
        """Take one output of the endpoint; False when it is not about a call."""
        match event:
            case LineEvent(call_id, channel_event):
                if (line := self._lines.get(call_id)) is not None:
                    line._event(channel_event)
            case LinePath(call_id, path):
                if (line := self._lines.get(call_id)) is not None:
                    line._path_changed(path)
            case LineSilent(call_id, silent):
                if (line := self._lines.get(call_id)) is not None:
                    line._silence_changed(silent)
            case HistoryChanged(call_id, history):
                self._history_changed(call_id, history)
            case IncomingCall():
                self._incoming(event)
            case RemoteRinging(call_id):
                if (ring := self._calling.get(call_id)) is not None:
                    ring._set_ringing()
            case LineReady():
                self._line_ready(event)
            case LineSecured():
                self._line_secured(event)
            case CallReplaced(call_id, by):
                if (ring := self._calling.pop(call_id, None)) is not None:
                    self._calling[by] = ring
            case CallOver():
                self._over(event)
            case CallRefused(name, key, text):
                log.warning("a call was refused: %s", text)
                self.refused.append(RefusedCall(name, key, text))
                self._news.tell()
            case _:
                return False
        return True

    def close(self) -> None:
        """The peer is left: what is not over yet is, now."""
        text = "this side has gone offline"
        for call_id in (*self._lines, *self._calling, *self._rings):
            self._over(CallOver(call_id, None, text))

    # ------------------------------------------------------------------------- inside

    def _incoming(self, call: IncomingCall) -> None:
        call_id, endpoint = call.call_id, self._endpoint
        taking = self._takes(call)
        if taking is Taking.YES and not self._has_room():
            taking = Taking.BUSY
        if taking is not Taking.YES:
            reason = Reason.BUSY if taking is Taking.BUSY else Reason.NOT_ACCEPTED
            self._command(lambda now: endpoint.decline(call_id, reason, now))
        elif self._ask:
            ring = self._rings[call_id] = Ring(
                call.name,
                call.key,
                not call.key_known,
                call.app,
                lambda: self._command(lambda now: endpoint.accept(call_id, now)),
                lambda why: self._command(lambda now: endpoint.decline(call_id, why, now)),
            )
            self._command(lambda now: endpoint.ring(call_id, now))
            self.arrived_rings.append(ring)
            self._news.tell()
        else:
            self._command(lambda now: endpoint.accept(call_id, now))

    def _has_room(self) -> bool:
        """Make room: what is over and was not asked for in time goes first."""
        if len(self.arrived) >= LINES_KEPT:
            over_line = next((line for line in self.arrived if line.closed), None)
            if over_line is None:
                return False
            self.arrived.remove(over_line)
        if len(self.arrived_rings) >= LINES_KEPT:
            over_ring = next((ring for ring in self.arrived_rings if ring.is_over), None)
            if over_ring is None:
                return False
            self.arrived_rings.remove(over_ring)
        return True

    def _line_ready(self, ready: LineReady) -> None:
        call_id, endpoint = ready.call_id, self._endpoint
        connection = endpoint.connection(call_id)
        if connection is None:  # over already; that comes next
            return

        def ping(now: float) -> int:
            number = connection.channel.ping(now)
            endpoint.flush(call_id, now)
            return number

        line = self._lines[call_id] = Line(
            connection,
            lambda: self._command(lambda now: endpoint.flush(call_id, now)),
            lambda reason: self._hang_up(call_id, reason),
            lambda: self._command(ping),
            lambda: self._command(lambda now: endpoint.history(call_id, now)),
            call_id=call_id,
            peer_name=ready.name,
            peer_key=ready.key,
            first_seen=not ready.key_known,
            app=ready.app,
            incoming=ready.incoming,
        )
        history = self._command(lambda now: endpoint.history(call_id, now))
        if history is not None:  # what was told of it before there was a line
            self._history_changed(call_id, history)
        if (calling := self._calling.pop(call_id, None)) is not None:
            if not calling._set_line(line):
                line.close("nobody waits for it any more")
        elif (ring := self._rings.pop(call_id, None)) is not None:
            ring._set_line(line)
        elif ready.incoming:
            self.arrived.append(line)
            self._news.tell()
        else:
            line.close("nobody waits for it any more")

    def _history_changed(self, call_id: bytes, history: CallHistory) -> None:
        if (line := self._lines.get(call_id)) is not None:
            line._history_changed(history)
            self._diary.tell(call_id, history)

    def _line_secured(self, secured: LineSecured) -> None:
        line = self._lines.get(secured.call_id)
        if line is not None:
            line._secured(secured.words)
            self._memory.proven(line.peer_name, line.peer_key, secured.keys)

    def _over(self, over: CallOver) -> None:
        if (line := self._lines.pop(over.call_id, None)) is not None:
            line._ended(over.text)
        if (calling := self._calling.pop(over.call_id, None)) is not None:
            calling._fail(call_error(over.fault, over.text))
        if (ring := self._rings.pop(over.call_id, None)) is not None:
            ring._set_over(over.text)

    def _cancel(self, ring: OutgoingRing) -> None:
        for call_id in [i for i, known in self._calling.items() if known is ring]:
            del self._calling[call_id]
            self._hang_up(call_id, "")

    def _hang_up(self, call_id: bytes, reason: str) -> None:
        self._command(lambda now: self._endpoint.hang_up(call_id, reason, now))
