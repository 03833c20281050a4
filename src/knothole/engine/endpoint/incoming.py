"""The callee's side of a call."""

from __future__ import annotations

from knothole.engine.endpoint.call import Call, CallState, Ourselves
from knothole.engine.endpoint.events import CallFault, IncomingCall
from knothole.engine.endpoint.reasons import explain
from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.rendezvous.events import CallCancelled, CallEvent, TrickleReceived
from knothole.engine.secure.call_seal import CalleeSeal
from knothole.engine.secure.certificate import ChannelCertificate
from knothole.engine.secure.events import UnacceptableFirstFlight
from knothole.engine.secure.quic import SecureChannel
from knothole.engine.secure.seal import SealRefused
from knothole.wire.signal import messages as signal
from knothole.wire.signal.values import MAX_CANDIDATES, Reason


class OfferedCall(Call):
    """Somebody calls us. ``seal`` holds the opened offer; its key was compared by the owner."""

    incoming = True

    def __init__(
        self,
        ourselves: Ourselves,
        seal: CalleeSeal,
        key_known: bool,
        certificate: ChannelCertificate,
        candidates: tuple[LocalCandidate, ...],
        now: float,
    ) -> None:
        offer = seal.offer
        super().__init__(ourselves, seal.call_id, seal.caller_name, offer.kind, offer.app, now)
        self.key, self.key_known = seal.caller_key, key_known
        self._seal = seal
        self._certificate = certificate
        self._candidates = candidates
        self._trickled: tuple[str, ...] = ()
        self._outputs.append(
            IncomingCall(self.call_id, self.name, self.key, key_known, self.kind, self.app)
        )

    def ring(self) -> None:
        """Tell the caller that our person is being asked."""
        if self._state is CallState.OFFERED:
            self._say(signal.Ringing(self.call_id))

    def accept(self, now: float) -> None:
        """Answer, and punch in the same turn."""
        if self._state is not CallState.OFFERED:
            return
        offer = self._seal.offer
        try:
            self._channel = SecureChannel.server(
                self._us.identity,
                self.key,
                offer.quic_datagrams,
                offer.words_commitment,
                self._seal.words_nonce,
                now,
                self._certificate,
            )
            lines = self._lines()
            answer = self._seal.seal_answer(
                candidates=lines, quic_datagrams=tuple(self._channel.datagrams(now))
            )
        except (UnacceptableFirstFlight, SealRefused) as error:
            self._say(signal.Decline(self.call_id, Reason.CANNOT_OPEN))
            self._over(CallFault.FAILED, str(error))
            return
        self._told.update(lines)
        self._say(signal.Answer(self.call_id, answer))
        credentials = self._seal.ice_credentials()
        self._start_ice(credentials.callee, credentials.caller, now)
        self._add_remotes(offer.candidates + self._trickled, now)
        self._ready()
        self._begin_line(now)
        self._drain(now)

    def decline(self, reason: str) -> None:
        """Do not take the call. ``reason`` is one of :class:`Reason`."""
        if self._state is CallState.OFFERED:
            self._say(signal.Decline(self.call_id, reason))
            self._over(None, "declined here")

    def signalled(self, event: CallEvent, now: float) -> None:
        match event:
            case CallCancelled(reason=reason) if self._state is CallState.OFFERED:
                elsewhere = reason in (Reason.ANSWERED_ELSEWHERE, Reason.DECLINED_ELSEWHERE)
                text = reason.replace("-", " ") if elsewhere else None
                self._over(CallFault.CANCELLED, text or explain(CallFault.CANCELLED, self.name))
            case TrickleReceived(sealed=sealed):
                try:
                    trickled = self._seal.open_trickle(sealed)
                except SealRefused:
                    return  # altered or replayed on the way: what is known already stays
                if self._state is CallState.OFFERED:  # it rings still; ICE begins with the answer
                    self._trickled = (self._trickled + trickled.candidates)[:MAX_CANDIDATES]
                self._add_remotes(trickled.candidates, now)
                self._drain(now)
            case _:
                super().signalled(event, now)

    def _rang_out(self, now: float) -> None:
        self._over(CallFault.CANCELLED, explain(CallFault.NO_ANSWER, self._us.name))

    def _seal_trickle(self, lines: tuple[str, ...]) -> bytes:
        return self._seal.seal_trickle(lines)
