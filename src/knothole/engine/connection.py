"""One line to one remote peer: QUIC over a constant virtual address, ICE moving the path beneath.

Until ICE has a valid pair, and again while it has none, QUIC's datagrams take *path zero*: the
signalling itself, within a small budget. The first flights of both ends travel there, inside the
offer and the answer, so that the first packet through the hole already carries payload.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from knothole.engine.core import Datagram, Timers, Transmit, least
from knothole.engine.ice.agent import IceAgent
from knothole.engine.ice.events import BestPairChanged
from knothole.engine.ice.pair import Pair
from knothole.engine.secure.events import ChannelEvent, Closed
from knothole.engine.secure.quic import SecureChannel
from knothole.wire import stun
from knothole.wire.address import Address

PATH_ZERO_BYTES: Final = 48 * 1024
"""What one end may send over the signalling before there is a path: ours. Enough for both
handshake flights, their retransmission and a second of speech; too little to be a relay."""

SUSPECT_SECONDS: Final = 1.0
"""Sent for so long and heard nothing: ours. The path is probed and our mapping asked for again."""

GONE_SECONDS: Final = 30.0
"""No path and no word from the other end for so long ends the line (RFC 7675 Section 5.1)."""

DOUBT_SECONDS: Final = 2.0
"""Ours: how long a line may stay silent once the switchboard says that the other end hung up."""


@dataclass(frozen=True, slots=True)
class PathInfo:
    """Where payload travels now. ``rtt_seconds`` is None until it was measured."""

    relayed: bool
    local: Address
    remote: Address
    rtt_seconds: float | None


@dataclass(frozen=True, slots=True)
class PathChanged:
    """Payload takes ``path`` from now on; None: no pair is valid, path zero carries a little."""

    path: PathInfo | None


@dataclass(frozen=True, slots=True)
class EarlyDatagrams:
    """QUIC datagrams for path zero: the parent hands them to the signalling."""

    datagrams: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PathSuspect:
    """Nothing is heard on the path: a good moment to ask for our mapped address again."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The other end was not heard of for ``GONE_SECONDS``: the line is over."""


ConnectionOutput = Transmit | EarlyDatagrams | PathChanged | PathSuspect | Lost | ChannelEvent


class Timer(enum.Enum):
    SUSPECT = enum.auto()
    DOUBT = enum.auto()
    GONE = enum.auto()


class Connection:
    """ICE and QUIC of one line (an :class:`~knothole.engine.core.Engine`).

    ``ice`` and ``channel`` are owned by the connection: it drains both after every call. Commands
    for payload go to :attr:`channel` directly, followed by :meth:`flush`.
    """

    def __init__(self, *, ice: IceAgent, channel: SecureChannel, now: float) -> None:
        self.ice = ice
        self.channel = channel
        self._pair: Pair | None = None
        self._heard_by: tuple[Address, Address] | None = None
        self._path_zero_left = PATH_ZERO_BYTES
        self._signalled = False
        self._closed = False
        self._timers: Timers[Timer] = Timers()
        self._outputs: deque[ConnectionOutput] = deque()
        self._timers.arm(Timer.GONE, now + GONE_SECONDS)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def path(self) -> PathInfo | None:
        """Where payload travels now, None while only path zero does."""
        pair = self.ice.best_pair
        return None if pair is None else _path_info(pair)

    def signalling_ready(self, now: float) -> None:
        """Both ends have agreed to the call: path zero may be used from now on."""
        self._signalled = True
        self.flush(now)

    def receive(self, datagram: Datagram, now: float) -> None:
        """A STUN message that :attr:`ice` accepts, or QUIC from an authenticated remote address."""
        if stun.looks_like_stun(datagram.payload):
            self.ice.receive(datagram, now)
        elif self.ice.is_authenticated_remote(datagram.destination, datagram.source):
            self._timers.disarm(Timer.SUSPECT)
            self._timers.disarm(Timer.DOUBT)
            self._notice_way(datagram, now)
            self.channel.receive(datagram.payload, datagram.segment_size, now)
        self.flush(now)

    def _notice_way(self, datagram: Datagram, now: float) -> None:
        """Payload that begins to come another way than ours goes says that the peer has moved:
        perhaps ours leads nowhere now, while what we hear keeps us from suspecting it."""
        ends = (datagram.destination, datagram.source)
        if ends != self._heard_by:
            self._heard_by = ends
            pair = self._pair
            if pair is not None and ends != (pair.base, pair.remote_address):
                self.ice.probe(now)

    def receive_early(self, datagrams: Sequence[bytes], now: float) -> None:
        """QUIC datagrams that came over path zero."""
        for datagram in datagrams:
            self.channel.receive(datagram, 0, now)
        self.flush(now)

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            match timer:
                case Timer.SUSPECT:
                    self._outputs.append(PathSuspect())
                    self.ice.probe(now)
                    self._timers.arm(Timer.SUSPECT, now + SUSPECT_SECONDS)
                case Timer.GONE | Timer.DOUBT:
                    self._lose()
        ice_timeout = self.ice.next_timeout()
        if ice_timeout is not None and ice_timeout <= now:
            self.ice.handle_timeout(now)
        channel_timeout = self.channel.next_timeout()
        if channel_timeout is not None and channel_timeout <= now:
            self.channel.handle_timeout(now)
        self.flush(now)

    def next_timeout(self) -> float | None:
        if self._closed:
            return None
        return least(self._timers.next(), self.ice.next_timeout(), self.channel.next_timeout())

    def outputs(self) -> Iterator[ConnectionOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def doubt(self, now: float) -> None:
        """Somebody says that the other end is gone: find out, and end if it does not answer."""
        if not self._closed and not self.channel.is_closed:
            self.channel.ping(now)
            self._timers.arm(Timer.DOUBT, now + DOUBT_SECONDS)
            self.flush(now)

    def close(self, reason: str, now: float) -> None:
        """Tell the other end on whatever path there is, then be silent."""
        if self._closed:
            return
        self.channel.close(0, reason)
        self.flush(now)
        self._end()

    def flush(self, now: float) -> None:
        """Drain ICE and QUIC: called after every command given to :attr:`channel`."""
        if self._closed:
            return
        self._drain_ice(now)
        self._drain_channel_events(now)
        if not self._closed:
            self._send(now)
            self._drain_channel_events(now)

    def _drain_ice(self, now: float) -> None:
        for output in self.ice.outputs():
            if isinstance(output, Transmit):
                self._outputs.append(output)
            elif isinstance(output, BestPairChanged):
                self._move_to(output.pair, now)
            # IceFailed is not the end: candidates may trickle in, and GONE decides.

    def _move_to(self, pair: Pair | None, now: float) -> None:
        self._pair = pair
        if pair is None:
            self._timers.arm(Timer.GONE, now + GONE_SECONDS)
        else:
            self._timers.disarm(Timer.GONE)  # from here consent watches (RFC 7675)
            self._path_zero_left = PATH_ZERO_BYTES
            self.channel.path_changed(now)
        self._outputs.append(PathChanged(None if pair is None else _path_info(pair)))

    def _drain_channel_events(self, now: float) -> None:
        for event in self.channel.outputs():
            self._outputs.append(event)
            if isinstance(event, Closed):
                self._send(now)
                self._end()

    def _send(self, now: float) -> None:
        if self._pair is not None:
            source, destination = self._pair.base, self._pair.remote_address
            while bursts := tuple(self.channel.bursts(now)):
                for payload, segment_size in bursts:
                    self._outputs.append(
                        Transmit(Datagram(source, destination, payload, segment_size))
                    )
                if not self._timers.is_armed(Timer.SUSPECT):
                    self._timers.arm(Timer.SUSPECT, now + SUSPECT_SECONDS)
        elif self._signalled and self._path_zero_left > 0:
            # Without budget QUIC keeps what it has: its own timers send it once there is a path.
            datagrams = self.channel.datagrams(now)
            if datagrams:
                self._path_zero_left -= sum(map(len, datagrams))
                self._outputs.append(EarlyDatagrams(tuple(datagrams)))

    def _lose(self) -> None:
        self._outputs.append(Lost())
        self._end()

    def _end(self) -> None:
        self._closed = True
        self._timers.clear()


def _path_info(pair: Pair) -> PathInfo:
    return PathInfo(pair.relayed, pair.base, pair.remote_address, pair.rtt_seconds)
