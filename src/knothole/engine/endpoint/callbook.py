"""All calls and lines of one endpoint: which of them a message or a datagram is for.

The order is the article's: the switchboard tells both sides at once, the callee punches first
(its checks leave in the same turn as its answer), the caller's packets come through the hole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeVar

from knothole.engine.connection import Connection
from knothole.engine.core import Datagram, least
from knothole.engine.endpoint.call import Call
from knothole.engine.endpoint.call_outputs import CallBookOutput, Reach, RemotesChanged, Say
from knothole.engine.endpoint.call_state import CallState, Ourselves
from knothole.engine.endpoint.events import (
    KIND_CALL,
    CallRefused,
    HistoryChanged,
    KeysFound,
    LineSecured,
)
from knothole.engine.endpoint.history import CallHistory
from knothole.engine.endpoint.history_notes import history_of, note_output
from knothole.engine.endpoint.incoming import OfferedCall
from knothole.engine.endpoint.outgoing import OutgoingCall
from knothole.engine.endpoint.parting import PartingCalls
from knothole.engine.endpoint.tcp_events import TcpEvent
from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.rendezvous.events import CallEvent, IncomingCall, SignallingProblem
from knothole.engine.rendezvous.glare import own_call_wins
from knothole.engine.secure.bursts import join_segments
from knothole.engine.secure.call_seal import CalleeSeal
from knothole.engine.secure.certificate import make_certificate
from knothole.engine.secure.identity import PeerKeys
from knothole.engine.secure.pins import KnownPeer, changed_key_text
from knothole.engine.secure.replay import SeenCalls
from knothole.engine.secure.seal import SealRefused
from knothole.wire import stun
from knothole.wire.address import Address
from knothole.wire.signal import messages as signal
from knothole.wire.signal.values import Reason, Trouble

CALL_ID_BYTES: Final = 16
MAX_OFFERED: Final = 64  # ours: calls that ring here at once; more are busy

CallT = TypeVar("CallT", bound=Call)


class KnownNames(Protocol):
    """What is remembered of other people, by name: a dict will do. Read at every call."""

    def get(self, name: str, /) -> KnownPeer | None: ...


class CallBook:
    """Every call of one endpoint (an :class:`~knothole.engine.core.Engine`).

    ``known`` is never changed here: the owner adds what it decides to remember.
    """

    def __init__(self, ourselves: Ourselves, known: KnownNames) -> None:
        self._us = ourselves
        self._known = known
        self._certificate = make_certificate(ourselves.identity)
        self._seen = SeenCalls()
        self._calls: dict[bytes, Call] = {}
        self._parting = PartingCalls()
        self._asked: set[str] = set()  # names whose keys are asked for, to be remembered
        self._reached: frozenset[Address] = frozenset()
        self._candidates: tuple[LocalCandidate, ...] = ()
        self._outputs: deque[CallBookOutput] = deque()

    def __len__(self) -> int:
        """How many calls and lines there are."""
        return len(self._calls)

    # ------------------------------------------------------------------------ commands

    def call(self, name: str, kind: str, app: str, now: float) -> bytes:
        """Call ``name``; the id under which everything else is reported."""
        call_id, known = self._us.random(CALL_ID_BYTES), self._known.get(name)
        call = OutgoingCall(self._us, call_id, name, kind, app, known, self._candidates, now)
        self._add(call, now)
        return call_id

    def ring(self, call_id: bytes, now: float) -> None:
        """Tell the caller that our person is being asked."""
        call = self._find(call_id, OfferedCall)
        if call is not None:
            call.ring()
            self._drain(call, now)

    def accept(self, call_id: bytes, now: float) -> None:
        """Take an incoming call."""
        call = self._find(call_id, OfferedCall)
        if call is not None:
            call.accept(now)
            self._drain(call, now)

    def decline(self, call_id: bytes, reason: str, now: float) -> None:
        """Do not take an incoming call. ``reason`` is one of :class:`Reason`."""
        call = self._find(call_id, OfferedCall)
        if call is not None:
            call.decline(reason)
            self._drain(call, now)

    def close(self, call_id: bytes, reason: str, now: float) -> None:
        """End a call or line in whatever state; the other end learns ``reason`` on a line."""
        call = self._calls.get(call_id)
        if call is not None:
            call.close(reason, now)
            self._drain(call, now)

    def close_all(self, reason: str, now: float) -> None:
        for call_id in tuple(self._calls):
            self.close(call_id, reason, now)

    def connection(self, call_id: bytes) -> Connection | None:
        """The connection of a call that has one."""
        call = self._calls.get(call_id)
        return None if call is None else call.connection

    def history(self, call_id: bytes, now: float) -> CallHistory | None:
        """What a call that is not over has tried so far."""
        call = self._calls.get(call_id)
        return None if call is None else history_of(call, now)

    def flush(self, call_id: bytes, now: float) -> None:
        """Carry out what was commanded to the connection's channel."""
        self._do(call_id, lambda call: call.flush(now), now)

    def candidates_changed(self, candidates: tuple[LocalCandidate, ...], now: float) -> None:
        """Our standing candidates are these now."""
        self._candidates = candidates
        for call in tuple(self._calls.values()):
            call.candidates_changed(candidates, now)
            self._drain(call, now)

    def sockets_opened(self, owner: bytes, bases: Sequence[Address], now: float) -> bool:
        """Sockets that the call with the id ``owner`` asked for; False when it is over."""
        return self._do(owner, lambda call: call.sockets_opened(bases, now), now)

    def socket_closed(self, owner: bytes, base: Address, now: float) -> None:
        """A socket of the call with the id ``owner`` is gone."""
        self._do(owner, lambda call: call.socket_closed(base, now), now)

    def tcp_happened(self, owner: bytes, event: TcpEvent, now: float) -> bool:
        """What io tells the call with the id ``owner``; False when it is over."""
        return self._do(owner, lambda call: call.tcp_happened(event, now), now)

    def report_changed(self, now: float) -> None:
        """More is known of our NAT."""
        for call in tuple(self._calls.values()):
            call.report_changed(now)
            self._drain(call, now)

    def flowing_bases(self, now: float) -> set[Address]:
        """Our addresses through which payload goes directly at this time."""
        found = (
            None if call.connection is None else call.connection.flowing_base(now)
            for call in self._calls.values()
        )
        return {base for base in found if base is not None}

    def woken(self, now: float) -> None:
        """This machine has slept: every line asks whether its paths are there still."""
        for call in tuple(self._calls.values()):
            if call.connection is not None:
                call.connection.woken(now)
                call.flush(now)
                self._drain(call, now)

    def registered(self, now: float) -> None:
        """The switchboard is (again) there: what was said while it went away may be lost."""
        for call in tuple(self._calls.values()):
            call.registered(now)
            self._drain(call, now)

    # -------------------------------------------------------------------------- engine

    def receive(self, datagram: Datagram, now: float) -> None:
        """A datagram that is not from one of our servers; what belongs to no call is dropped."""
        if stun.looks_like_stun(datagram.payload):
            found = (call for call in self._calls.values() if call.accepts_stun(datagram))
            self._give(next(found, None), datagram, now)
            return
        calls = list(self._all())
        known = calls if len(calls) == 1 else [c for c in calls if c.accepts_payload(datagram)]
        if len(known) == 1:
            self._give(known[0], datagram, now)
        elif known:  # several lines to one peer share the path: QUIC's connection IDs tell
            self._give_apart(known, datagram, now)

    def handle_timeout(self, now: float) -> None:
        self._parting.forget(now)
        for call in tuple(self._calls.values()):
            timeout = call.next_timeout()
            if timeout is not None and timeout <= now:
                call.handle_timeout(now)
                self._drain(call, now)

    def next_timeout(self) -> float | None:
        return least(
            self._parting.next_timeout(),
            *(call.next_timeout() for call in self._calls.values()),
        )

    def outputs(self) -> Iterator[CallBookOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def found(self, keys: PeerKeys, now: float) -> None:
        """The switchboard's answer to a look-up."""
        for call in self._waiting_for(keys.name):
            call.offer(keys, now)
            self._drain(call, now)
        if keys.name in self._asked:
            self._asked.discard(keys.name)
            self._outputs.append(KeysFound(keys))

    def not_found(self, name: str, now: float) -> None:
        """The switchboard knows nobody of this name whom we may see."""
        self._asked.discard(name)
        for call in self._waiting_for(name):
            call.unknown()
            self._drain(call, now)

    def signalled(self, event: CallEvent, now: float) -> None:
        """Something the switchboard says about a call; what makes no sense is ignored."""
        if isinstance(event, IncomingCall):
            self._incoming(event, now)
            return
        call = self._calls.get(event.call_id)
        if call is not None:
            call.signalled(event, now)
            self._drain(call, now)

    def problem(self, problem: SignallingProblem, now: float) -> None:
        """The switchboard did not do something for a call."""
        call = None if problem.call_id is None else self._calls.get(problem.call_id)
        if call is not None and problem.code == Trouble.PEER_AWAY:
            call.peer_away(now)

    # -------------------------------------------------------------------------- inside

    def _do(self, call_id: bytes, command: Callable[[Call], None], now: float) -> bool:
        call = self._calls.get(call_id)
        if call is not None:
            command(call)
            self._drain(call, now)
        return call is not None

    def _waiting_for(self, name: str) -> list[OutgoingCall]:
        return [
            call
            for call in self._calls.values()
            if isinstance(call, OutgoingCall)
            and call.name == name
            and call.state is CallState.LOOKING_UP
        ]

    def _incoming(self, incoming: IncomingCall, now: float) -> None:
        name, call_id = incoming.from_name, incoming.call_id
        if call_id in self._calls:
            return
        offered = sum(call.state is CallState.OFFERED for call in self._calls.values())
        if offered >= MAX_OFFERED:
            self._decline(call_id, Reason.BUSY)
            return
        try:
            seal = CalleeSeal(
                incoming.offer,
                identity=self._us.identity,
                name=self._us.name,
                device_id=self._us.device_id,
                call_id=call_id,
                from_name=name,
                from_key=incoming.from_key,
                seen=self._seen,
                random=self._us.random,
            )
        except SealRefused:
            self._decline(call_id, Reason.CANNOT_OPEN)
            return
        known = self._known.get(name)
        if known is not None and known.public_key != incoming.from_key:
            self._decline(call_id, Reason.KEY_CHANGED)
            text = changed_key_text(known, incoming.from_key)
            self._outputs.append(CallRefused(name, incoming.from_key, text))
            return
        call = OfferedCall(
            self._us,
            seal,
            known is not None,
            self._certificate,
            self._candidates,
            now,
            incoming.observed,
        )
        ours = self._calling(name) if call.kind == KIND_CALL else None
        if ours is None:
            call.announce()
        elif ours.state is CallState.CALLING and own_call_wins(ours.call_id, call_id):
            self._decline(call_id, Reason.GLARE)
            return
        else:
            ours.replace(call_id)
            self._drain(ours, now)
            call.accept(now)
        self._add(call, now)

    def _calling(self, name: str) -> OutgoingCall | None:
        """A call of ours to ``name``, from person to person, that is not answered yet."""
        for call in self._calls.values():
            unanswered = call.state in (CallState.LOOKING_UP, CallState.CALLING)
            if (
                isinstance(call, OutgoingCall)
                and unanswered
                and (call.name, call.kind) == (name, KIND_CALL)
            ):
                return call
        return None

    def _decline(self, call_id: bytes, reason: Reason) -> None:
        self._outputs.append(Say(signal.Decline(call_id, reason)))

    def _all(self) -> Iterator[Call]:
        yield from self._calls.values()
        yield from self._parting

    def _give(self, call: Call | None, datagram: Datagram, now: float) -> None:
        if call is not None:
            call.receive(datagram, now)
            self._drain(call, now)

    def _give_apart(self, calls: Iterable[Call], datagram: Datagram, now: float) -> None:
        """Each datagram of a burst to the call that its connection ID names."""
        parts: dict[bytes, list[bytes]] = {}
        by_id = {call.call_id: call for call in calls}
        for payload in datagram.segments():
            call = next((call for call in by_id.values() if call.accepts_quic(payload)), None)
            if call is not None:
                parts.setdefault(call.call_id, []).append(payload)
        for call_id, payloads in parts.items():
            for payload, segment_size in join_segments(payloads):
                part = datagram._replace(payload=payload, segment_size=segment_size)
                self._give(by_id[call_id], part, now)

    def _find(self, call_id: bytes, kind: type[CallT]) -> CallT | None:
        call = self._calls.get(call_id)
        return call if isinstance(call, kind) else None

    def _add(self, call: Call, now: float) -> None:
        self._calls[call.call_id] = call
        self._drain(call, now)

    def _drain(self, call: Call, now: float) -> None:
        if call.is_over and call.call_id in self._calls:
            del self._calls[call.call_id]
            if call.connection is not None and call.connection.is_parting:
                self._parting.add(call, now)
        outputs = tuple(call.outputs())
        for output in outputs:
            note_output(call.history, output, now)
        if call.history.take_changed():
            self._outputs.append(HistoryChanged(call.call_id, history_of(call, now)))
        for output in outputs:
            match output:
                case RemotesChanged():
                    self._reach()
                    continue
                case LineSecured() if call.incoming:
                    self._ask_for_keys(call.name)
                case _:
                    pass
            self._outputs.append(output)

    def _reach(self) -> None:
        """The relay serves those who are wanted by any call: lines may share a peer's address."""
        peers = frozenset[Address]().union(*(call.remotes for call in self._calls.values()))
        if peers != self._reached:
            self._reached = peers
            self._outputs.append(Reach(peers))

    def _ask_for_keys(self, name: str) -> None:
        """A call back to somebody who called us shall need no lookup."""
        known = self._known.get(name)
        if (known is None or known.keys is None) and name not in self._asked:
            self._asked.add(name)
            self._outputs.append(Say(signal.Lookup(name)))
