"""One line to one remote peer: QUIC over a constant virtual address, ICE moving the path beneath.

Until ICE has a valid pair, and again while it has none, QUIC's datagrams take *path zero*: the
signalling itself, within a small budget. The first flights of both ends travel there, inside the
offer and the answer, so that the first packet through the hole already carries payload.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from knothole.engine.connection_events import ConnectionOutput as ConnectionOutput
from knothole.engine.connection_events import EarlyDatagrams as EarlyDatagrams
from knothole.engine.connection_events import Loss as Loss
from knothole.engine.connection_events import Lost as Lost
from knothole.engine.connection_events import PathChanged as PathChanged
from knothole.engine.connection_events import PathInfo as PathInfo
from knothole.engine.connection_events import PathSuspect as PathSuspect
from knothole.engine.connection_events import SilenceChanged as SilenceChanged
from knothole.engine.core import Datagram, TimerName, Timers, Transmit, least
from knothole.engine.ice.agent import IceAgent
from knothole.engine.ice.events import BestPairChanged
from knothole.engine.ice.pair import Pair
from knothole.engine.pulse import Pulse
from knothole.engine.secure.bursts import join_segments
from knothole.engine.secure.events import Closed, PingAnswered
from knothole.engine.secure.quic import DATAGRAMS_A_CALL, SecureChannel
from knothole.wire import stun
from knothole.wire.address import Address
from knothole.wire.signal.values import MAX_EARLY_DATAGRAMS

PATH_ZERO_BYTES: Final = 48 * 1024
"""What one end may send over the signalling before there is a path: ours. Enough for both
handshake flights, their retransmission and a second of speech; too little to be a relay."""

SUSPECT_SECONDS: Final = 1.0
"""An answer that is missing for so long makes the path suspect: ours."""

FIRST_SUSPICION_SECONDS: Final = 0.3
"""Ours: the first suspicion comes sooner, and costs a question for our mapped address and a check
on two pairs. QUIC's own probes have gone unanswered by then, so it is not a lost packet."""

SUSPECT_RTTS: Final = 4  # ours: or for so many round trips, where that is longer

SILENT_SECONDS: Final = 10.0
"""Ours: the other end was not heard of for so long. A consent check is out every 6 s at most, and
when its answer is missing every pair is probed: it is gone, or the network is; the owner is told.
The line lives on until GONE."""

GONE_SECONDS: Final = 40.0
"""The other end was not heard of for so long: the line is over. RFC 7675 Section 5.1 ends consent
after 30 s; ten more, so that a path that is back just before that is still found."""

FLOWING_SECONDS: Final = 5.0
"""Ours: payload that came so short a time ago has kept the mapping that it came through. No NAT is
known that forgets one sooner than 20 s after its last packet."""

DOUBT_SECONDS: Final = 2.0
"""Ours: how long a line may stay silent once the switchboard says that the other end hung up."""

DOUBT_PINGS: Final = 4  # ours: questions meanwhile; QUIC does not repeat a lost PING


class _State(enum.Enum):
    OPEN = enum.auto()
    PARTING = enum.auto()  # closed here: who goes on talking to us is told again
    OVER = enum.auto()


_NEXT: Final = {
    _State.OPEN: {_State.PARTING, _State.OVER},
    _State.PARTING: {_State.OVER},
    _State.OVER: set[_State](),
}


class _Timer(TimerName):
    SUSPECT = enum.auto()
    QUIET = enum.auto()
    DOUBT = enum.auto()
    SILENT = enum.auto()


class Connection:
    """ICE and QUIC of one line (an :class:`~knothole.engine.core.Engine`).

    ``ice`` and ``channel`` are owned by the connection: it drains both after every call. Commands
    for payload go to :attr:`channel` directly, followed by :meth:`flush`.
    """

    def __init__(self, *, ice: IceAgent, channel: SecureChannel) -> None:
        self.ice = ice
        self.channel = channel
        self._state = _State.OPEN
        self._pair: Pair | None = None
        self._met = False  # there was a pair
        self._heard_by: tuple[Address, Address] | None = None
        self._path_zero_left = PATH_ZERO_BYTES
        self._signalled = False
        self._heard_at = -math.inf
        self._silent = False
        self._suspicions = 0
        self._pulse = Pulse()
        self._doubts = 0
        self._doubt_pings: set[int] = set()
        self._timers: Timers[_Timer] = Timers()
        self._outputs: deque[ConnectionOutput] = deque()

    @property
    def closed(self) -> bool:
        """Nothing more is delivered or sent, but for a repeated farewell."""
        return self._state is not _State.OPEN

    @property
    def is_parting(self) -> bool:
        """It was closed at this end, and :meth:`receive` repeats the farewell."""
        return self._state is _State.PARTING

    @property
    def path(self) -> PathInfo | None:
        """Where payload travels now, None while only path zero does."""
        pair = self.ice.best_pair
        return None if pair is None else _path_info(pair)

    def flowing_base(self, now: float) -> Address | None:
        """Our address that payload comes to, and leaves from, at this time, if it is direct."""
        pair = self._pair
        if pair is None or pair.relayed or now > self._heard_at + FLOWING_SECONDS:
            return None
        return pair.base

    def signalling_ready(self, now: float) -> None:
        """Both ends have agreed to the call: path zero may be used now, and silence counts."""
        self._signalled = True
        self._heard_at = now
        self._timers.arm(_Timer.SILENT, now + SILENT_SECONDS)
        self.flush(now)

    def receive(self, datagram: Datagram, now: float) -> None:
        """A STUN message that :attr:`ice` accepts, or QUIC from an authenticated remote address.

        Anything else is dropped.
        """
        if stun.looks_like_stun(datagram.payload):
            if self._state is _State.OPEN:
                self.ice.receive(datagram, now)
                self.flush(now)
        elif self._state is not _State.OVER and self.ice.is_authenticated_remote(
            datagram.destination, datagram.source
        ):
            self._notice_way(datagram, now)
            self._hear(datagram.payload, datagram.segment_size, now)
            quiet_seconds = self._pulse.beat(now)
            if quiet_seconds is None:
                self._timers.disarm(_Timer.QUIET)
            else:
                self._timers.arm(_Timer.QUIET, now + quiet_seconds)
            if not self.channel.probes_unanswered:
                self._timers.disarm(_Timer.SUSPECT)
                self._suspicions = 0
            self.flush(now)

    def receive_early(self, datagrams: Sequence[bytes], now: float) -> None:
        """QUIC datagrams that came over path zero."""
        for datagram in datagrams:
            if self._state is _State.OVER:
                return
            self._hear(datagram, 0, now)
            self.flush(now)

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            match timer:
                case _Timer.SUSPECT:
                    self._suspect(now)
                case _Timer.QUIET if self._pair is not None:
                    self._outputs.append(PathSuspect())
                    self.ice.confirm(now)
                case _Timer.DOUBT:
                    self._doubt(now)
                case _Timer.SILENT:
                    self._look_for_signs_of_life(now)
        if self._state is not _State.OPEN:
            return
        ice_timeout = self.ice.next_timeout()
        if ice_timeout is not None and ice_timeout <= now:
            self.ice.handle_timeout(now)
        channel_timeout = self._channel_timeout()
        if channel_timeout is not None and channel_timeout <= now:
            self.channel.handle_timeout(now)
        self.flush(now)

    def next_timeout(self) -> float | None:
        if self._state is not _State.OPEN:
            return None
        return least(self._timers.next(), self.ice.next_timeout(), self._channel_timeout())

    def outputs(self) -> Iterator[ConnectionOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def doubt(self, now: float) -> None:
        """Somebody says that the other end is gone: find out, and end if it does not answer."""
        if self._state is _State.OPEN and not self._timers.is_armed(_Timer.DOUBT):
            self._doubts = 0
            self._doubt(now)
            self.flush(now)

    def woken(self, now: float) -> None:
        """This end has slept: nobody knows what became of any path meanwhile."""
        if self._state is _State.OPEN:
            self.ice.probe(now)
            if self._pair is not None and self._signalled:
                self.channel.path_changed(now)
            self.flush(now)

    def close(self, reason: str, now: float) -> None:
        """Tell the other end on whatever path there is; as often as it goes on talking."""
        if self._state is not _State.OPEN:
            return
        self.channel.close(0, reason)
        self._drain_channel_events()
        self._send(now)

    def flush(self, now: float) -> None:
        """Drain ICE and QUIC: called after every command given to :attr:`channel`."""
        if self._state is _State.OPEN:
            if self._silent and now < max(self._heard_at, self.ice.heard_at) + SILENT_SECONDS:
                self._look_for_signs_of_life(now)
            self._drain_ice(now)
            self._drain_channel_events()
        if self._state is not _State.OVER:
            self._send(now)
            self._drain_channel_events()

    def _notice_way(self, datagram: Datagram, now: float) -> None:
        """Payload that begins to come another way than ours goes says that the peer has moved:
        perhaps ours leads nowhere now."""
        ends = (datagram.destination, datagram.source)
        if ends != self._heard_by:
            self._heard_by = ends
            pair = self._pair
            if pair is not None and ends != (pair.base, pair.remote_address):
                self.ice.probe(now)

    def _hear(self, payload: bytes, segment_size: int, now: float) -> None:
        self._heard_at = now
        self.channel.receive(payload, segment_size, now)

    def _drain_ice(self, now: float) -> None:
        for output in self.ice.outputs():
            if isinstance(output, Transmit):
                self._outputs.append(output)
            elif isinstance(output, BestPairChanged):
                self._move_to(output.pair, now)
            # IceFailed is not the end: candidates may trickle in, and GONE decides.

    def _move_to(self, pair: Pair | None, now: float) -> None:
        self._pair = pair
        self._timers.disarm(_Timer.SUSPECT)
        self._suspicions = 0
        self._path_zero_left = PATH_ZERO_BYTES
        if pair is not None:
            self._met = True
            if self._signalled:
                self.channel.path_changed(now)
        self._outputs.append(PathChanged(None if pair is None else _path_info(pair)))

    def _drain_channel_events(self) -> None:
        for event in self.channel.outputs():
            match event:
                case Closed(by_peer=by_peer):
                    self._move(_State.OVER if by_peer else _State.PARTING)
                    self._timers.clear()
                case PingAnswered(ping_id) if ping_id in self._doubt_pings:
                    self._doubt_pings.clear()
                    self._timers.disarm(_Timer.DOUBT)
                    continue
                case _:
                    pass
            self._outputs.append(event)

    def _can_send(self) -> bool:
        return self._pair is not None or (self._signalled and self._path_zero_left > 0)

    def _channel_timeout(self) -> float | None:
        """QUIC's timers, while what they want to send can be sent; they are overdue afterwards."""
        return self.channel.next_timeout() if self._can_send() else None

    def _send(self, now: float) -> None:
        if self._pair is not None:
            source, destination = self._pair.base, self._pair.remote_address
            transport = self._pair.transport
            sent = False
            while burst := self.channel.datagrams(now):
                sent = True
                for payload, segment_size in join_segments(burst):
                    self._outputs.append(
                        Transmit(Datagram(source, destination, payload, segment_size, transport))
                    )
                if len(burst) < DATAGRAMS_A_CALL:
                    break
            due = sent and self.channel.probes_unanswered is not None
            if due and not self._timers.is_armed(_Timer.SUSPECT):
                rtt_seconds = self._pair.rtt_seconds or 0.0
                patience = max(FIRST_SUSPICION_SECONDS, SUSPECT_RTTS * rtt_seconds)
                self._timers.arm(_Timer.SUSPECT, now + patience)
            return
        # Without budget QUIC keeps what it has: its own timers send it once there is a path.
        while self._can_send():
            datagrams = tuple(self.channel.datagrams(now, MAX_EARLY_DATAGRAMS))
            if not datagrams:
                return
            self._path_zero_left -= sum(map(len, datagrams))
            self._outputs.append(EarlyDatagrams(datagrams))

    def _suspect(self, now: float) -> None:
        """Ask once a second whether the path is back: QUIC's own probes double their interval."""
        if self.channel.probes_unanswered is None:
            return
        self._suspicions += 1
        wait = SUSPECT_SECONDS
        if self._suspicions == 1:
            self._outputs.append(PathSuspect())
            self.ice.confirm(now)
            wait -= FIRST_SUSPICION_SECONDS
        elif (self._suspicions - 1).bit_count() == 1:  # after 1, 2, 4, 8, ... seconds
            self._outputs.append(PathSuspect())
            self.ice.probe(now)
        self.channel.path_changed(now)
        self._timers.arm(_Timer.SUSPECT, now + wait)

    def _doubt(self, now: float) -> None:
        if self._doubts == DOUBT_PINGS:
            self._lose(Loss.HUNG_UP)
            return
        self._doubts += 1
        self._doubt_pings.add(self.channel.ping(now))
        self._timers.arm(_Timer.DOUBT, now + DOUBT_SECONDS / DOUBT_PINGS)

    def _look_for_signs_of_life(self, now: float) -> None:
        heard_at = max(self._heard_at, self.ice.heard_at)
        if now >= heard_at + GONE_SECONDS:
            self._lose(Loss.SILENCE if self._met else Loss.NO_PATH)
            return
        self._set_silent(now >= heard_at + SILENT_SECONDS)
        patience = GONE_SECONDS if self._silent else SILENT_SECONDS
        self._timers.arm(_Timer.SILENT, heard_at + patience)

    def _set_silent(self, silent: bool) -> None:
        if silent != self._silent:
            self._silent = silent
            self._outputs.append(SilenceChanged(silent))

    def _lose(self, loss: Loss) -> None:
        self._outputs.append(Lost(loss))
        self._move(_State.OVER)
        self._timers.clear()

    def _move(self, state: _State) -> None:
        assert state in _NEXT[self._state], (self._state, state)
        self._state = state


def _path_info(pair: Pair) -> PathInfo:
    kinds = pair.local.kind.value, pair.remote.kind.value
    return PathInfo(
        pair.relayed, pair.base, pair.remote_address, pair.rtt_seconds, *kinds, pair.transport
    )
