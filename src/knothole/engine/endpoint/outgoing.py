"""The caller's side of a call."""

from __future__ import annotations

from knothole.engine.endpoint.call import Call, CallState, Ourselves
from knothole.engine.endpoint.events import CallFault, RemoteRinging
from knothole.engine.endpoint.reasons import FAULT_OF_FAILURE, FAULT_OF_REASON, explain, key_changed
from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.rendezvous.events import (
    CallAnswered,
    CallDeclined,
    CalleeOnFile,
    CalleeRinging,
    CallEvent,
    CallNotMade,
    TrickleReceived,
)
from knothole.engine.secure.call_seal import CallerSeal
from knothole.engine.secure.identity import PeerKeys
from knothole.engine.secure.quic import SecureChannel
from knothole.engine.secure.seal import SealRefused
from knothole.wire.signal import messages as signal
from knothole.wire.signal.values import DeviceOnFile, Failure, Reason


class OutgoingCall(Call):
    """A call of ours: looked up, offered, answered.

    ``known_key`` is the remembered key of ``name``, None for the first time.
    """

    incoming = False

    def __init__(
        self,
        ourselves: Ourselves,
        call_id: bytes,
        name: str,
        kind: str,
        app: str,
        known_key: bytes | None,
        candidates: tuple[LocalCandidate, ...],
        now: float,
    ) -> None:
        super().__init__(ourselves, call_id, name, kind, app, now)
        self._known_key = known_key
        self._candidates = candidates
        self._seal: CallerSeal | None = None
        self._device_id: bytes | None = None
        self._stale_before = False

    def look_up(self) -> None:
        """Ask the switchboard for the callee's keys; :meth:`offer` follows."""
        self._say(signal.Lookup(self.name))

    def offer(self, keys: PeerKeys, now: float) -> None:
        """The callee's keys, as the switchboard says: call, if they are the right ones."""
        if self._state is not CallState.LOOKING_UP:
            return
        if self._known_key is not None and self._known_key != keys.public_key:
            text = key_changed(self.name, self._known_key, keys.public_key)
            self._over(CallFault.KEY_CHANGED, text)
            return
        if not keys.verify():
            text = f"The switchboard's keys for {self.name} do not belong together."
            self._over(CallFault.FAILED, text)
            return
        self.key, self.key_known = keys.public_key, self._known_key is not None
        seal = self._seal = CallerSeal(
            identity=self._us.identity,
            name=self._us.name,
            peer=keys,
            call_id=self.call_id,
            random=self._us.random,
        )
        self._channel = SecureChannel.client(self._us.identity, seal.words_nonce, now)
        lines = self._lines()
        self._told.update(lines)
        sealed = seal.seal_offer(
            kind=self.kind,
            app=self.app,
            candidates=lines,
            quic_datagrams=self._channel.first_flight,
        )
        self._move(CallState.CALLING)
        self._say(signal.Call(self.call_id, self.name, seal.sealed_to, sealed))

    def unknown(self) -> None:
        """The switchboard knows nobody of this name."""
        if self._state is CallState.LOOKING_UP:
            self._over(CallFault.UNKNOWN, explain(CallFault.UNKNOWN, self.name))

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
            case _:
                super().signalled(event, now)

    def _start_on_file(self, device: DeviceOnFile, now: float) -> None:
        """Check towards the one device on file, before it has answered."""
        if self.connection is None and device.candidates:
            self._start_towards(device.device_id, now)
            self._add_remotes(device.candidates, now)
            self._drain(now)

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
            self._over(CallFault.FAILED, f"The answer is refused: {error}")
            return
        if self._device_id != event.device_id:
            self._start_towards(event.device_id, now)
        assert self.connection is not None
        self._add_remotes(answer.candidates, now)
        self._channel.expect_server(self.key, answer.words_nonce, now)
        self._begin_line(now)
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
        self._add_remotes(trickled.candidates, now)
        self._drain(now)

    def _failed(self, code: str, text: str) -> None:
        if code == Failure.STALE_KEY and not self._stale_before:
            # The callee has other keys than we were told before: ask again, and then decide.
            self._stale_before = True
            self._move(CallState.LOOKING_UP)
            self.look_up()
            return
        fault = FAULT_OF_FAILURE.get(code)
        if fault is not None:
            self._over(fault, explain(fault, self.name))
        else:  # a newer server's word
            self._over(CallFault.FAILED, text or explain(CallFault.FAILED, self.name))

    def _rang_out(self, now: float) -> None:
        if self._state is CallState.CALLING:
            self._say(signal.Cancel(self.call_id, Reason.NO_ANSWER))
        self._over(CallFault.NO_ANSWER, explain(CallFault.NO_ANSWER, self.name))

    def _seal_trickle(self, lines: tuple[str, ...]) -> bytes:
        assert self._seal is not None
        return self._seal.seal_trickle(lines)
