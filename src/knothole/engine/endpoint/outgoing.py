"""The caller's side of a call."""

from __future__ import annotations

from knothole.engine.endpoint.call import Call
from knothole.engine.endpoint.call_state import CallState, Ourselves
from knothole.engine.endpoint.events import CallFault, CallReplaced, RemoteRinging
from knothole.engine.endpoint.reasons import FAULT_OF_FAILURE, FAULT_OF_REASON, explain
from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.rendezvous.events import (
    CallAnswered,
    CallDeclined,
    CalleeOnFile,
    CalleeRinging,
    CallEvent,
    CallNotMade,
    EarlyReceived,
    TrickleReceived,
)
from knothole.engine.secure.call_seal import CallerSeal
from knothole.engine.secure.identity import PeerKeys
from knothole.engine.secure.pins import KnownPeer, changed_key_text
from knothole.engine.secure.quic import SecureChannel
from knothole.engine.secure.seal import SealRefused
from knothole.wire.signal import messages as signal
from knothole.wire.signal.plans import Move
from knothole.wire.signal.tcp import TcpWord
from knothole.wire.signal.values import DeviceOnFile, Failure, Reason


class OutgoingCall(Call):
    """A call of ours: offered at once when the callee's keys are known, otherwise looked up first.

    ``known`` is what is remembered of ``name``, None for the first time.
    """

    incoming = False

    def __init__(
        self,
        ourselves: Ourselves,
        call_id: bytes,
        name: str,
        kind: str,
        app: str,
        known: KnownPeer | None,
        candidates: tuple[LocalCandidate, ...],
        now: float,
    ) -> None:
        super().__init__(ourselves, call_id, name, kind, app, candidates, now)
        self._known = known
        self._keys: PeerKeys | None = None
        self._seal: CallerSeal | None = None
        self._device_id: bytes | None = None
        self._stale_before = False
        keys = None if known is None else known.keys
        if keys is not None and keys.verify():
            self.offer(keys, now)
        else:
            self._say(signal.Lookup(name))

    @property
    def peer_keys(self) -> PeerKeys | None:
        return self._keys

    def offer(self, keys: PeerKeys, now: float) -> None:
        """The callee's keys, as the switchboard says: call, if they are the right ones."""
        if self._state is not CallState.LOOKING_UP:
            return
        if self._known is not None and self._known.public_key != keys.public_key:
            text = changed_key_text(self._known, keys.public_key)
            self._over(CallFault.KEY_CHANGED, text)
            return
        self._keys = keys
        self.key, self.key_known = keys.public_key, self._known is not None
        seal = self._seal = CallerSeal(
            identity=self._us.identity,
            name=self._us.name,
            peer=keys,
            call_id=self.call_id,
            random=self._us.random,
        )
        self._channel = SecureChannel.client(self._us.identity, seal.words_nonce, now)
        sealed = seal.seal_offer(
            kind=self.kind,
            app=self.app,
            candidates=self._exchange.tell_all(),
            quic_datagrams=self._channel.first_flight,
            terms=self._punching.offer_terms(),
        )
        self._move(CallState.CALLING)
        shown = self._punching.shows_host
        self._say(signal.Call(self.call_id, self.name, seal.sealed_to, sealed, show_host=shown))

    def unknown(self) -> None:
        """The switchboard knows nobody of this name."""
        if self._state is CallState.LOOKING_UP:
            self._over(CallFault.UNKNOWN, explain(CallFault.UNKNOWN, self.name))

    def replace(self, by: bytes) -> None:
        """The callee has called us at the same moment, and its call goes on in place of this."""
        if self._state is CallState.CALLING:
            self._say(signal.Cancel(self.call_id, Reason.GLARE))
        self._finish()
        self._outputs.append(CallReplaced(self.call_id, by))

    def signalled(self, event: CallEvent, now: float) -> None:
        calling = self._state is CallState.CALLING
        match event:
            case CalleeOnFile(devices=devices) if calling and len(devices) == 1:
                self._start_on_file(devices[0], now)
            case CalleeRinging() if calling:
                self._outputs.append(RemoteRinging(self.call_id))
            case CallAnswered() if calling:
                self._answered(event, now)
            case CallDeclined(reason=reason) if calling:
                fault = FAULT_OF_REASON.get(reason, CallFault.DECLINED)
                self._over(fault, explain(fault, self.name))
            case CallNotMade(code=code, text=text) if calling:
                self._failed(code, text)
            case TrickleReceived() if self._device_id is not None:
                self._trickled(event, now)
            case EarlyReceived(device_id=device_id) if device_id != self._device_id:
                pass  # connection.md Section 2: datagrams of one device only
            case _:
                super().signalled(event, now)

    def _start_on_file(self, device: DeviceOnFile, now: float) -> None:
        """Check towards the one device on file, before it has answered."""
        if not device.candidates:
            return
        if self._device_id is None:
            self._start_towards(device.device_id, now)
        if self._device_id == device.device_id:
            self._add_remotes(device.candidates, now, on_file=True)

    def _start_towards(self, device_id: bytes, now: float) -> None:
        assert self._seal is not None
        self._device_id = device_id
        credentials = self._seal.ice_credentials(device_id)
        self._start_ice(credentials.caller, credentials.callee, now)

    def _answered(self, event: CallAnswered, now: float) -> None:
        assert self._seal is not None
        assert self._channel is not None
        try:
            answer = self._seal.open_answer(event.device_id, event.answer)
        except SealRefused as error:
            self._say(signal.HangUp(self.call_id, Reason.FAILED))
            self._over(CallFault.FAILED, f"The answer of {self.name} is refused: {error}.")
            return
        if self._device_id != event.device_id:
            self._start_towards(event.device_id, now)
        assert self.connection is not None
        self._channel.expect_server(self.key, answer.words_nonce, now)
        self._begin_line(now)
        self._agree(answer.terms, event.observed)
        self._add_remotes(answer.candidates, now)
        self.connection.receive_early(answer.quic_datagrams, now)
        self._drain(now)

    def _trickled(self, event: TrickleReceived, now: float) -> None:
        assert self._seal is not None
        if event.device_id != self._device_id:
            return
        try:
            trickled = self._seal.open_trickle(event.device_id, event.sealed)
        except SealRefused:
            return  # altered or replayed on the way: what is known already stays
        self._heard(trickled, now)

    def _failed(self, code: str, text: str) -> None:
        if code == Failure.STALE_KEY and not self._stale_before:
            # The callee has other keys than we were told before: ask again, and then decide.
            self._stale_before = True
            self._move(CallState.LOOKING_UP)
            self._say(signal.Lookup(self.name))
            return
        fault = FAULT_OF_FAILURE.get(code, CallFault.FAILED)
        if fault is CallFault.FAILED:
            self._over(fault, f"The call to {self.name} failed: {text or code}.")
        else:
            self._over(fault, explain(fault, self.name))

    def _rang_out(self) -> None:
        if self._state is CallState.CALLING:
            self._say(signal.Cancel(self.call_id, Reason.NO_ANSWER))
        self._over(CallFault.NO_ANSWER, explain(CallFault.NO_ANSWER, self.name))

    def _seal_trickle(self, lines: tuple[str, ...], step: Move | TcpWord | None = None) -> bytes:
        assert self._seal is not None
        return self._seal.seal_trickle(lines, step=step)
