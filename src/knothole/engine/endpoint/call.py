"""One call, from the first word to the line's end: what both sides of it have in common."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.connection import (
    Connection,
    EarlyDatagrams,
    Lost,
    PathChanged,
    PathSuspect,
)
from knothole.engine.core import Datagram, RandomBytes, Timers, Transmit, least
from knothole.engine.endpoint.events import (
    CallFault,
    CallOver,
    IncomingCall,
    LineEvent,
    LinePath,
    LineReady,
    LineSecured,
    RemoteRinging,
)
from knothole.engine.ice.agent import IceAgent
from knothole.engine.ice.credentials import IceCredentials
from knothole.engine.ice.options import BETWEEN_KNOTHOLES
from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.rendezvous.events import CallEvent, EarlyReceived, PeerHungUp
from knothole.engine.secure.call_seal import DerivedIceCredentials
from knothole.engine.secure.events import CloseCode, Closed, Secured
from knothole.engine.secure.identity import Identity
from knothole.engine.secure.quic import SecureChannel
from knothole.engine.secure.words import comparison_words
from knothole.wire.address import Address
from knothole.wire.candidate import CandidateKind, decode_candidate, encode_candidate
from knothole.wire.malformed import MalformedMessage
from knothole.wire.signal import messages as signal
from knothole.wire.signal.values import MAX_CANDIDATES, MAX_EARLY_DATAGRAMS, Reason

TIE_BREAKER_BYTES: Final = 8  # RFC 8445 Section 16.1: 64 bits

RING_SECONDS: Final = 50.0
"""Ours: the server ends unanswered calls after 45 s; this is for a server that does not."""

SECURE_SECONDS: Final = 15.0
"""Ours: an answered call whose keys are not proven by then is over."""


@dataclass(frozen=True, slots=True)
class Say:
    """Send this message to the switchboard."""

    message: signal.ClientMessage


@dataclass(frozen=True, slots=True)
class Reach:
    """Let these peers reach us over the relay."""

    peers: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """The relay need not carry these peers any more."""

    peers: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class CheckMapping:
    """Ask the STUN servers for our mapped addresses now."""


CallOutput: TypeAlias = (
    Transmit
    | Say
    | Reach
    | Release
    | CheckMapping
    | IncomingCall
    | RemoteRinging
    | LineReady
    | LineSecured
    | LineEvent
    | LinePath
    | CallOver
)


class CallState(enum.Enum):
    """Where a call is: the caller's starts at LOOKING_UP, the callee's at OFFERED."""

    LOOKING_UP = enum.auto()  # the callee's keys are asked for
    CALLING = enum.auto()  # the offer is with the switchboard
    OFFERED = enum.auto()  # it rings here, or the policy decides
    LINE = enum.auto()  # answered: payload may be sent
    OVER = enum.auto()


_NEXT: Final = {
    CallState.LOOKING_UP: {CallState.CALLING, CallState.OVER},
    CallState.CALLING: {CallState.LOOKING_UP, CallState.LINE, CallState.OVER},
    CallState.OFFERED: {CallState.LINE, CallState.OVER},
    CallState.LINE: {CallState.OVER},
    CallState.OVER: set[CallState](),
}


class _Timer(enum.Enum):
    RING = enum.auto()
    SECURE = enum.auto()


@dataclass(frozen=True, slots=True)
class Ourselves:
    """Who makes calls here: ``name`` on the switchboard, ``device_id`` among our devices."""

    identity: Identity
    name: str
    device_id: bytes
    random: RandomBytes


class Call:
    """One call (an :class:`~knothole.engine.core.Engine`); see the two subclasses."""

    incoming: bool

    def __init__(
        self, ourselves: Ourselves, call_id: bytes, name: str, kind: str, app: str, now: float
    ) -> None:
        self.call_id = call_id
        self.name = name
        self.kind = kind
        self.app = app
        self.key = b""
        self.key_known = False
        self.connection: Connection | None = None
        self._us = ourselves
        self._state = CallState.OFFERED if self.incoming else CallState.LOOKING_UP
        self._channel: SecureChannel | None = None
        self._candidates: tuple[LocalCandidate, ...] = ()
        self._told: set[str] = set()  # our candidate lines that the other side knows
        self._remotes: set[Address] = set()
        self._bases: set[Address] = set()
        self._timers: Timers[_Timer] = Timers()
        self._outputs: deque[CallOutput] = deque()
        self._timers.arm(_Timer.RING, now + RING_SECONDS)

    @property
    def state(self) -> CallState:
        return self._state

    @property
    def is_over(self) -> bool:
        return self._state is CallState.OVER

    # ------------------------------------------------------------------------- engine

    def accepts_payload(self, datagram: Datagram) -> bool:
        """Whether ``datagram`` comes from where this call's peer has proven to be."""
        return self.connection is not None and self.connection.ice.is_authenticated_remote(
            datagram.destination, datagram.source
        )

    def accepts_quic(self, payload: bytes) -> bool:
        """Whether one QUIC datagram is for this call."""
        return self._channel is not None and self._channel.accepts(payload)

    def accepts_stun(self, datagram: Datagram) -> bool:
        """Whether a STUN message is for this call's ICE agent."""
        return self.connection is not None and self.connection.ice.accepts(datagram)

    def receive(self, datagram: Datagram, now: float) -> None:
        if self.connection is not None:
            self.connection.receive(datagram, now)
            self._drain(now)

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            match timer:
                case _Timer.RING:
                    self._rang_out(now)
                case _Timer.SECURE:
                    self.close("the other end could not prove its key in time", now)
        if self.connection is not None and not self.is_over:
            timeout = self.connection.next_timeout()
            if timeout is not None and timeout <= now:
                self.connection.handle_timeout(now)
                self._drain(now)

    def next_timeout(self) -> float | None:
        connection = self.connection.next_timeout() if self.connection is not None else None
        return least(self._timers.next(), connection)

    def outputs(self) -> Iterator[CallOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    # ----------------------------------------------------------------------- commands

    def flush(self, now: float) -> None:
        """Carry out what was commanded to the connection's channel."""
        if self.connection is not None:
            self.connection.flush(now)
            self._drain(now)

    def close(self, reason: str, now: float) -> None:
        """End the call in whatever state; the other end learns of it."""
        match self._state:
            case CallState.OVER:
                return
            case CallState.CALLING:
                self._say(signal.Cancel(self.call_id, Reason.CANCELLED))
            case CallState.OFFERED:
                self._say(signal.Decline(self.call_id, Reason.DECLINED))
            case CallState.LINE:
                self._hang_up(reason, now)
        self._over(None, reason or "closed here")

    def candidates_changed(self, candidates: tuple[LocalCandidate, ...], now: float) -> None:
        """Our standing candidates are these now: the agent gets them, the other side is told."""
        self._candidates = candidates
        if self.connection is not None:
            self._give_locals(now)
            self._reach(self._remotes)
        self._tell_candidates()
        self._drain(now)

    def registered(self) -> None:
        """The switchboard is there again: what was said while it went away may be lost."""
        if self._state is CallState.LINE:
            self._told.clear()
            self._tell_candidates()

    def signalled(self, event: CallEvent, now: float) -> None:
        """What the switchboard says about this call; what makes no sense now is ignored."""
        match event:
            case PeerHungUp():
                if self.connection is not None and self.connection.path is not None:
                    self.connection.doubt(now)  # the server alone does not end a line that lives
                    self._drain(now)
                elif self._state is CallState.LINE:
                    self._over(None, f"{self.name} hung up")
            case EarlyReceived(datagrams=datagrams) if self.connection is not None:
                self.connection.receive_early(datagrams, now)
                self._drain(now)
            case _:
                pass

    # ------------------------------------------------------------- for the subclasses

    def _seal_trickle(self, lines: tuple[str, ...]) -> bytes:
        raise NotImplementedError

    def _rang_out(self, now: float) -> None:
        raise NotImplementedError

    def _say(self, message: signal.ClientMessage) -> None:
        self._outputs.append(Say(message))

    def _tell_candidates(self) -> None:
        """Trickle what the other side does not know yet (RFC 8838)."""
        fresh = tuple(line for line in self._lines() if line not in self._told)
        if fresh and self._state in (CallState.CALLING, CallState.LINE):
            self._told.update(fresh)
            self._say(signal.Trickle(self.call_id, self._seal_trickle(fresh)))

    def _lines(self) -> tuple[str, ...]:
        """Our candidates as the other side reads them."""
        return tuple(encode_candidate(c.candidate) for c in self._candidates[:MAX_CANDIDATES])

    def _move(self, state: CallState) -> None:
        """The one place where a call changes its state."""
        if state not in _NEXT[self._state]:
            raise AssertionError(f"a call does not go from {self._state} to {state}")
        self._state = state

    def _start_ice(
        self, local: DerivedIceCredentials, remote: DerivedIceCredentials, now: float
    ) -> None:
        """Make the connection: an ICE agent with our standing candidates beneath the channel."""
        assert self._channel is not None
        random = self._us.random
        ice = IceAgent(
            controlling=not self.incoming,
            local=IceCredentials(*local),
            tie_breaker=int.from_bytes(random(TIE_BREAKER_BYTES), "big"),
            random=random,
            now=now,
            options=BETWEEN_KNOTHOLES,
        )
        self.connection = Connection(ice=ice, channel=self._channel, now=now)
        self._bases.clear()
        self._remotes.clear()
        self._give_locals(now)
        ice.set_remote_credentials(IceCredentials(*remote), now)

    def _give_locals(self, now: float) -> None:
        assert self.connection is not None
        bases = {local.base for local in self._candidates}
        for gone in self._bases - bases:
            self.connection.ice.remove_local_base(gone, now)
        self._bases = bases
        for local in self._candidates:
            self.connection.ice.add_local_candidate(local.candidate, local.base, now)

    def _add_remotes(self, lines: Iterable[str], now: float) -> None:
        """Candidates that the other side told, with the relay prepared for them first."""
        if self.connection is None:
            return
        candidates = []
        for line in lines:
            try:
                candidate = decode_candidate(line)
            except MalformedMessage:
                continue  # RFC 8839 Section 5.1: what is not understood is ignored
            if candidate.transport == "udp" and candidate.kind is not CandidateKind.PEER_REFLEXIVE:
                candidates.append(candidate)
        fresh = [c.address for c in candidates if c.address not in self._remotes]
        self._remotes.update(fresh)
        self._reach(fresh)
        for candidate in candidates:
            self.connection.ice.add_remote_candidate(candidate, now)

    def _reach(self, peers: Iterable[Address]) -> None:
        wanted = tuple(peers)
        if wanted:
            self._outputs.append(Reach(wanted))

    def _begin_line(self, now: float) -> None:
        """Answered: path zero may be used, and the keys must be proven soon."""
        assert self.connection is not None
        self._move(CallState.LINE)
        self._timers.disarm(_Timer.RING)
        self._timers.arm(_Timer.SECURE, now + SECURE_SECONDS)
        self.connection.signalling_ready(now)

    def _ready(self) -> None:
        self._outputs.append(
            LineReady(self.call_id, self.name, self.key, self.key_known, self.app, self.incoming)
        )

    def _drain(self, now: float) -> None:
        if self.connection is None:
            return
        for output in self.connection.outputs():
            match output:
                case Transmit():
                    self._outputs.append(output)
                case EarlyDatagrams(datagrams):
                    for start in range(0, len(datagrams), MAX_EARLY_DATAGRAMS):
                        part = datagrams[start : start + MAX_EARLY_DATAGRAMS]
                        self._say(signal.Early(self.call_id, part))
                case PathChanged(path):
                    self._outputs.append(LinePath(self.call_id, path))
                case PathSuspect():
                    self._outputs.append(CheckMapping())
                case Lost():
                    self._over(None, f"{self.name} is gone")
                case Secured():
                    self._secured(output)
                case Closed():
                    self._channel_closed(output)
                case _:
                    self._outputs.append(LineEvent(self.call_id, output))

    def _secured(self, secured: Secured) -> None:
        self._timers.disarm(_Timer.SECURE)
        keys = (self.key, self._us.identity.public_key)
        caller, callee = keys if self.incoming else keys[::-1]
        words = comparison_words(caller, callee, secured.client_nonce, secured.server_nonce)
        if not self.incoming:
            self._ready()
        self._outputs.append(LineSecured(self.call_id, words))

    def _channel_closed(self, closed: Closed) -> None:
        if closed.code == CloseCode.NORMAL:
            reason = f"{self.name} closed the line"
            self._over(None, f"{reason}: {closed.reason}" if closed.reason else reason)
        else:
            self._over(CallFault.FAILED, f"The line to {self.name} broke: {closed.reason}")

    def _hang_up(self, reason: str, now: float) -> None:
        assert self.connection is not None
        self.connection.close(reason, now)
        for output in self.connection.outputs():
            if isinstance(output, Transmit):
                self._outputs.append(output)
            elif isinstance(output, EarlyDatagrams):
                self._say(signal.Early(self.call_id, output.datagrams[:MAX_EARLY_DATAGRAMS]))
        self._say(signal.HangUp(self.call_id, Reason.HUNG_UP))

    def _over(self, fault: CallFault | None, text: str) -> None:
        if self.is_over:
            return
        self._move(CallState.OVER)
        self._timers.clear()
        if self._remotes:
            self._outputs.append(Release(tuple(self._remotes)))
        self._outputs.append(CallOver(self.call_id, fault, text))
