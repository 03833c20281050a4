"""All calls and lines of one endpoint: which of them a message or a datagram is for.

The order is the article's: the switchboard tells both sides at once, the callee punches first
(its checks leave in the same turn as its answer), the caller's packets come through the hole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

from knothole.engine.connection import Connection
from knothole.engine.core import Datagram, least
from knothole.engine.endpoint.call import Call, CallOutput, CallState, Ourselves, Say
from knothole.engine.endpoint.incoming import OfferedCall
from knothole.engine.endpoint.outgoing import OutgoingCall
from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.rendezvous.events import CallEvent, IncomingCall
from knothole.engine.secure.call_seal import CalleeSeal
from knothole.engine.secure.certificate import make_certificate
from knothole.engine.secure.identity import PeerKeys
from knothole.engine.secure.replay import SeenCalls
from knothole.engine.secure.seal import SealRefused
from knothole.wire import stun
from knothole.wire.signal import messages as signal
from knothole.wire.signal.values import Reason

CALL_ID_BYTES: Final = 16
MAX_OFFERED: Final = 64  # ours: calls that ring here at once; more are busy

CallT = TypeVar("CallT", bound=Call)


class CallBook:
    """Every call of one endpoint (an :class:`~knothole.engine.core.Engine`).

    ``known_keys`` are the remembered keys by name. It is read and never changed here: the owner
    adds what it decides to remember.
    """

    def __init__(self, ourselves: Ourselves, known_keys: Mapping[str, bytes]) -> None:
        self._us = ourselves
        self._known_keys = known_keys
        self._certificate = make_certificate(ourselves.identity)
        self._seen = SeenCalls()
        self._looked_up: dict[str, PeerKeys] = {}
        self._calls: dict[bytes, Call] = {}
        self._candidates: tuple[LocalCandidate, ...] = ()
        self._outputs: deque[CallOutput] = deque()

    # ------------------------------------------------------------------------ commands

    def call(self, name: str, kind: str, app: str, now: float) -> bytes:
        """Call ``name``; the id under which everything else is reported."""
        call = OutgoingCall(
            self._us,
            self._us.random(CALL_ID_BYTES),
            name,
            kind,
            app,
            self._known_keys.get(name),
            self._candidates,
            now,
        )
        self._calls[call.call_id] = call
        keys = self._looked_up.get(name)
        if keys is None:
            call.look_up()
        else:
            call.offer(keys, now)
        self._drain(call)
        return call.call_id

    def ring(self, call_id: bytes) -> None:
        """Tell the caller that our person is being asked."""
        call = self._find(call_id, OfferedCall)
        if call is not None:
            call.ring()
            self._drain(call)

    def accept(self, call_id: bytes, now: float) -> None:
        """Take an incoming call."""
        call = self._find(call_id, OfferedCall)
        if call is not None:
            call.accept(now)
            self._drain(call)

    def decline(self, call_id: bytes, reason: str) -> None:
        """Do not take an incoming call. ``reason`` is one of :class:`Reason`."""
        call = self._find(call_id, OfferedCall)
        if call is not None:
            call.decline(reason)
            self._drain(call)

    def close(self, call_id: bytes, reason: str, now: float) -> None:
        """End a call or line in whatever state; the other end learns ``reason`` on a line."""
        call = self._calls.get(call_id)
        if call is not None:
            call.close(reason, now)
            self._drain(call)

    def close_all(self, reason: str, now: float) -> None:
        for call_id in tuple(self._calls):
            self.close(call_id, reason, now)

    def connection(self, call_id: bytes) -> Connection | None:
        """The connection of a call that has one."""
        call = self._calls.get(call_id)
        return None if call is None else call.connection

    def flush(self, call_id: bytes, now: float) -> None:
        """Carry out what was commanded to the connection's channel."""
        call = self._calls.get(call_id)
        if call is not None:
            call.flush(now)
            self._drain(call)

    def candidates_changed(self, candidates: tuple[LocalCandidate, ...], now: float) -> None:
        """Our standing candidates are these now."""
        self._candidates = candidates
        for call in tuple(self._calls.values()):
            call.candidates_changed(candidates, now)
            self._drain(call)

    def registered(self) -> None:
        """The switchboard is (again) there: what it told before may be out of date."""
        self._looked_up.clear()
        for call in tuple(self._calls.values()):
            call.registered()
            self._drain(call)

    # -------------------------------------------------------------------------- engine

    def receive(self, datagram: Datagram, now: float) -> None:
        """A datagram that is not from one of our servers; what belongs to no call is dropped."""
        calls = self._calls.values()
        if stun.looks_like_stun(datagram.payload):
            call = next((call for call in calls if call.accepts_stun(datagram)), None)
            if call is not None:
                self._give(call, datagram, now)
            return
        known = [call for call in calls if call.accepts_payload(datagram)]
        if len(known) == 1:
            self._give(known[0], datagram, now)
        elif known:  # several lines to one peer share the path: QUIC's connection IDs tell
            for payload in datagram.segments():
                part = Datagram(datagram.source, datagram.destination, payload)
                call = next((call for call in known if call.accepts_quic(payload)), None)
                if call is not None:
                    self._give(call, part, now)

    def handle_timeout(self, now: float) -> None:
        for call in tuple(self._calls.values()):
            timeout = call.next_timeout()
            if timeout is not None and timeout <= now:
                call.handle_timeout(now)
                self._drain(call)

    def next_timeout(self) -> float | None:
        return least(*(call.next_timeout() for call in self._calls.values()))

    def outputs(self) -> Iterator[CallOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def found(self, keys: PeerKeys, now: float) -> None:
        """The switchboard's answer to a look-up."""
        self._looked_up[keys.name] = keys
        for call in self._waiting_for(keys.name):
            call.offer(keys, now)
            self._drain(call)

    def not_found(self, name: str) -> None:
        """The switchboard knows nobody of this name whom we may see."""
        for call in self._waiting_for(name):
            call.unknown()
            self._drain(call)

    def signalled(self, event: CallEvent, now: float) -> None:
        """Something the switchboard says about a call; what makes no sense is ignored."""
        if isinstance(event, IncomingCall):
            self._incoming(event, now)
            return
        call = self._calls.get(event.call_id)
        if call is not None:
            call.signalled(event, now)
            self._drain(call)

    # -------------------------------------------------------------------------- inside

    def _waiting_for(self, name: str) -> list[OutgoingCall]:
        return [
            call
            for call in self._calls.values()
            if isinstance(call, OutgoingCall)
            and call.name == name
            and call.state is CallState.LOOKING_UP
        ]

    def _incoming(self, incoming: IncomingCall, now: float) -> None:
        if incoming.call_id in self._calls:
            return
        offered = sum(call.state is CallState.OFFERED for call in self._calls.values())
        if offered >= MAX_OFFERED:
            self._outputs.append(Say(signal.Decline(incoming.call_id, Reason.BUSY)))
            return
        try:
            seal = CalleeSeal(
                incoming.offer,
                identity=self._us.identity,
                name=self._us.name,
                device_id=self._us.device_id,
                call_id=incoming.call_id,
                from_name=incoming.from_name,
                from_key=incoming.from_key,
                seen=self._seen,
                random=self._us.random,
            )
        except SealRefused:
            self._outputs.append(Say(signal.Decline(incoming.call_id, Reason.CANNOT_OPEN)))
            return
        known = self._known_keys.get(incoming.from_name)
        if known is not None and known != incoming.from_key:
            self._outputs.append(Say(signal.Decline(incoming.call_id, Reason.KEY_CHANGED)))
            return
        call = OfferedCall(
            self._us, seal, known is not None, self._certificate, self._candidates, now
        )
        self._calls[call.call_id] = call
        self._drain(call)

    def _give(self, call: Call, datagram: Datagram, now: float) -> None:
        call.receive(datagram, now)
        self._drain(call)

    def _find(self, call_id: bytes, kind: type[CallT]) -> CallT | None:
        call = self._calls.get(call_id)
        return call if isinstance(call, kind) else None

    def _drain(self, call: Call) -> None:
        self._outputs.extend(call.outputs())
        if call.is_over:
            self._calls.pop(call.call_id, None)
