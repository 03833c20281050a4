"""One call, from the first word to the line's end: what both sides of it have in common."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator

from knothole.engine.connection import (
    Connection,
    EarlyDatagrams,
    Lost,
    PathChanged,
    PathInfo,
    PathSuspect,
    SilenceChanged,
)
from knothole.engine.core import Datagram, TimerName, Timers, Transmit, least
from knothole.engine.endpoint.call_outputs import CallOutput, CheckMapping, RemotesChanged
from knothole.engine.endpoint.call_state import (
    NEXT_STATES,
    RING_SECONDS,
    SECURE_SECONDS,
    TELL_AGAIN_SECONDS,
    CallState,
    Ourselves,
)
from knothole.engine.endpoint.call_ways import CallWays
from knothole.engine.endpoint.events import (
    CallFault,
    CallOver,
    LineEvent,
    LinePath,
    LineReady,
    LineSecured,
    LineSilent,
)
from knothole.engine.endpoint.exchange import CandidateExchange
from knothole.engine.endpoint.history import CandidateCount
from knothole.engine.endpoint.reasons import channel_closed, line_lost
from knothole.engine.ice.agent import agent_between_knotholes
from knothole.engine.ice.credentials import IceCredentials
from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.rendezvous.events import CallEvent, EarlyReceived, PeerHungUp
from knothole.engine.secure.call_seal import DerivedIceCredentials
from knothole.engine.secure.events import CandidatesTold, Closed, Secured
from knothole.engine.secure.identity import PeerKeys
from knothole.engine.secure.quic import SecureChannel
from knothole.engine.secure.words import comparison_words
from knothole.wire.address import Address, Transport
from knothole.wire.signal import messages as signal
from knothole.wire.signal.content import TrickledCandidates
from knothole.wire.signal.values import Reason


class _Timer(TimerName):
    RING = enum.auto()
    SECURE = enum.auto()
    TELL_AGAIN = enum.auto()


class Call(CallWays):
    """One call (an :class:`~knothole.engine.core.Engine`); see the two subclasses."""

    def __init__(
        self,
        ourselves: Ourselves,
        call_id: bytes,
        name: str,
        kind: str,
        app: str,
        candidates: tuple[LocalCandidate, ...],
        now: float,
    ) -> None:
        super().__init__(ourselves, call_id, name, now)
        self.name = name
        self.kind = kind
        self.app = app
        self.key = b""
        self.key_known = False
        self._us = ourselves
        self._state = CallState.OFFERED if self.incoming else CallState.LOOKING_UP
        self._exchange = CandidateExchange(candidates, relay_only=self.relay_only)
        self._channel: SecureChannel | None = None
        self._secured = False
        self._timers: Timers[_Timer] = Timers()
        self._timers.arm(_Timer.RING, now + RING_SECONDS)

    @property
    def state(self) -> CallState:
        return self._state

    @property
    def is_over(self) -> bool:
        return self._state is CallState.OVER

    @property
    def _is_heard(self) -> bool:
        """Whether the other side may get what we trickle."""
        return self._state in (CallState.CALLING, CallState.LINE)

    @property
    def is_secured(self) -> bool:
        """Both keys are proven."""
        return self._secured

    @property
    def remotes(self) -> frozenset[Address]:
        """The addresses at which the other side may be."""
        return frozenset() if self.is_over else self._exchange.remotes

    @property
    def candidate_counts(self) -> tuple[tuple[CandidateCount, ...], tuple[CandidateCount, ...]]:
        """How many candidates of each kind are ours, and the other side's."""
        return self._exchange.counts()

    @property
    def peer_keys(self) -> PeerKeys | None:
        """What the other side's calls are sealed to, as far as this call had to know it."""
        return None

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
        """Whether a STUN message is for this call's ICE agent, or came to a socket of its own."""
        own = self._punching.has(datagram.destination)
        return own or (self.connection is not None and self.connection.ice.accepts(datagram))

    def receive(self, datagram: Datagram, now: float) -> None:
        """Also after the end: who goes on talking to a line that was closed here is told again."""
        if self.connection is not None:
            found = self._punching.receive(datagram, self.connection.ice, now)
            if found is not None:
                self._exchange.add_found(found, now)
            self.connection.receive(datagram, now)
            self._drain(now)

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            match timer:
                case _Timer.RING:
                    self._rang_out()
                case _Timer.SECURE:
                    self._break_off(f"{self.name} has not proven its key in time.", now)
                case _Timer.TELL_AGAIN:
                    self.registered(now)
        if self.connection is not None and not self.is_over:
            timeout = self.connection.next_timeout()
            if timeout is not None and timeout <= now:
                self.connection.handle_timeout(now)
            self._punching.handle_timeout(now)
            self._tcp.handle_timeout(now)
            self._drain(now)

    def next_timeout(self) -> float | None:
        if self.is_over:
            return None
        connection = self.connection.next_timeout() if self.connection is not None else None
        children = self._punching.next_timeout(), self._tcp.next_timeout()
        return least(self._timers.next(), connection, *children)

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
        """End the call in whatever state; the other end learns of it, on a line with ``reason``."""
        match self._state:
            case CallState.OVER:
                return
            case CallState.CALLING:
                self._say(signal.Cancel(self.call_id, Reason.CANCELLED))
            case CallState.OFFERED:  # not on this device; DECLINED would end it on all of them
                self._say(signal.Decline(self.call_id, Reason.FAILED))
            case CallState.LINE:
                self._part(reason, now)
        self._over(None, f"closed here: {reason}" if reason else "closed here")

    def candidates_changed(self, candidates: tuple[LocalCandidate, ...], now: float) -> None:
        """Our standing candidates are these now: the agent gets them, the other side is told."""
        self._exchange.set_locals(candidates, now)
        self._tell_candidates()
        self.flush(now)

    def report_changed(self, now: float) -> None:
        """More is known of our NAT."""
        if self._is_heard:
            self._punching.report_changed(now)
            self._consider_plan(now)

    def registered(self, now: float) -> None:
        """The switchboard is there again: what was said while it went away may be lost."""
        self._exchange.forget_told()
        self._tell_candidates()
        self.flush(now)

    def peer_away(self, now: float) -> None:
        """The switchboard could not pass on what we said: say it again in a while."""
        if self._is_heard:
            self._timers.arm(_Timer.TELL_AGAIN, now + TELL_AGAIN_SECONDS)

    def signalled(self, event: CallEvent, now: float) -> None:
        """What the switchboard says about this call; what makes no sense now is ignored."""
        match event:
            case PeerHungUp() if self._state is CallState.LINE:
                self._doubt(f"{self.name} hung up", now)
            case EarlyReceived(datagrams=datagrams) if self._state is CallState.LINE:
                assert self.connection is not None
                self.connection.receive_early(datagrams, now)
                self._drain(now)
            case _:
                pass

    # ------------------------------------------------------------- for the subclasses

    def _rang_out(self) -> None:
        raise NotImplementedError

    def _tell_candidates(self) -> None:
        """Trickle what the other side does not know yet (RFC 8838)."""
        if self._is_heard and (fresh := self._exchange.tell_new()):
            self._say(signal.Trickle(self.call_id, self._seal_trickle(fresh)))
            if self._channel is not None:  # a line may outlive the server that knows of it
                self._channel.tell_candidates(fresh)

    def _move(self, state: CallState) -> None:
        """The one place where a call changes its state."""
        if state not in NEXT_STATES[self._state]:
            raise AssertionError(f"a call does not go from {self._state} to {state}")
        self._state = state

    def _start_ice(
        self, local: DerivedIceCredentials, remote: DerivedIceCredentials, now: float
    ) -> None:
        """Make the connection: an ICE agent with our standing candidates beneath the channel."""
        assert self._channel is not None
        ice = agent_between_knotholes(IceCredentials(*local), self.incoming, self._us.random, now)
        self.connection = Connection(ice=ice, channel=self._channel)
        self._exchange.begin(ice, now)
        ice.set_remote_credentials(IceCredentials(*remote), now)

    def _add_remotes(self, lines: Iterable[str], now: float, *, on_file: bool = False) -> None:
        """Candidates that the other side told, or the server has ``on_file``, with the relay
        prepared for them first."""
        if self.connection is not None:
            if self._exchange.add_remotes(lines, now, on_file=on_file):
                self._outputs.append(RemotesChanged())
            self.flush(now)
            self._consider_plan(now)

    def _consider_plan(self, now: float) -> None:
        if self.connection is not None:
            exchange = self._exchange
            self._punching.consider(self.connection.ice, exchange.locals, exchange.named, now)
        self._drain_punching()

    def _heard(self, trickled: TrickledCandidates, now: float) -> None:
        """More candidates of the other side's, or its next step of a plan or of TCP."""
        if trickled.move is not None:
            self._punching.heard(trickled.move, now)
        self._add_remotes(trickled.candidates, now)
        if trickled.tcp is not None:
            self._tcp.heard(trickled.tcp, now)
            self._drain_tcp(now)

    def _begin_line(self, now: float) -> None:
        """Answered: path zero may be used, and the keys must be proven soon."""
        assert self.connection is not None
        self._move(CallState.LINE)
        self._timers.disarm(_Timer.RING)
        self._timers.arm(_Timer.SECURE, now + SECURE_SECONDS)
        if not self.relay_only:
            self._tcp.begin(now)
        self.connection.signalling_ready(now)

    def _ready(self) -> None:
        self._outputs.append(
            LineReady(self.call_id, self.name, self.key, self.key_known, self.app, self.incoming)
        )

    def _doubt(self, text: str, now: float) -> None:
        """The server alone does not end a line that lives."""
        assert self.connection is not None
        if self._secured and self.connection.path is not None:
            self.connection.doubt(now)
            self._drain(now)
        else:
            self._over(None, text)

    def _break_off(self, text: str, now: float) -> None:
        """The line has failed at our end: the other one is told."""
        self._part("", now)
        self._over(CallFault.FAILED, text)

    def _over(self, fault: CallFault | None, text: str) -> None:
        if self.is_over:
            return
        self._finish()
        self._outputs.append(CallOver(self.call_id, fault, text))

    def _finish(self) -> None:
        if self._state is CallState.LINE:  # also when the other end did: signalling has its books
            self._say(signal.HangUp(self.call_id, Reason.HUNG_UP))
        self._move(CallState.OVER)
        self._timers.clear()
        self._punching.end()
        self._drain_punching()
        self._outputs.extend(self._tcp.end())
        self._outputs.append(RemotesChanged())

    # ------------------------------------------------------------------------- inside

    def _drain(self, now: float) -> None:
        assert self.connection is not None
        for output in self.connection.outputs():
            match output:
                case Transmit():
                    self._outputs.append(output)
                case EarlyDatagrams(datagrams):
                    self._say(signal.Early(self.call_id, datagrams))
                case _ if self.is_over:
                    pass
                case PathChanged(path):
                    self._path_changed(path, now)
                case PathSuspect():
                    self._outputs.append(CheckMapping())
                case SilenceChanged(silent):
                    self._outputs.append(LineSilent(self.call_id, silent))
                case CandidatesTold(lines):
                    self._add_remotes(lines, now)
                case Lost(loss):
                    self._over(*line_lost(loss, self.name))
                case Secured():
                    self._both_proven(output)
                case Closed():
                    self._over(*channel_closed(output, self.name))
                case _:
                    self._outputs.append(LineEvent(self.call_id, output))
        self._drain_punching()
        self._drain_tcp(now)

    def _path_changed(self, path: PathInfo | None, now: float) -> None:
        self._punching.path_changed(path is not None and not path.relayed, now)
        self._tcp.path_changed(path is not None and not path.relayed, now)
        if self._exchange.use(path.remote if path and path.transport is Transport.UDP else None):
            self._outputs.append(RemotesChanged())
        self._outputs.append(LinePath(self.call_id, path))

    def _both_proven(self, secured: Secured) -> None:
        self._secured = True
        self._timers.disarm(_Timer.SECURE)
        keys = (self.key, self._us.identity.public_key)
        caller, callee = keys if self.incoming else keys[::-1]
        words = comparison_words(caller, callee, secured.client_nonce, secured.server_nonce)
        if not self.incoming:
            self._ready()
        self._outputs.append(LineSecured(self.call_id, words, self.peer_keys))

    def _part(self, reason: str, now: float) -> None:
        """Say goodbye on the line; the switchboard tells it too, in case that it is lost there."""
        assert self.connection is not None
        self.connection.close(reason, now)
        for output in self.connection.outputs():
            if isinstance(output, Transmit):
                self._outputs.append(output)
            elif isinstance(output, EarlyDatagrams):
                self._say(signal.Early(self.call_id, output.datagrams))
