"""The callee's side of a call."""

from __future__ import annotations

from knothole.engine.endpoint.call import Call
from knothole.engine.endpoint.call_state import CallState, Ourselves
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
from knothole.wire.signal.plans import Move
from knothole.wire.signal.tcp import TcpWord
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
        observed: tuple[str, ...] = (),
    ) -> None:
        offer = seal.offer
        super().__init__(
            ourselves, seal.call_id, seal.caller_name, offer.kind, offer.app, candidates, now
        )
        self.key, self.key_known = seal.caller_key, key_known
        self._seal = seal
        self._certificate = certificate
        self._observed = observed  # where the server sees the caller
        self._trickled: tuple[str, ...] = ()

    def announce(self) -> None:
        """Let the owner decide: :meth:`accept` or :meth:`decline` follows."""
        self._outputs.append(
            IncomingCall(self.call_id, self.name, self.key, self.key_known, self.kind, self.app)
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
        except UnacceptableFirstFlight as error:
            self._say(signal.Decline(self.call_id, Reason.CANNOT_OPEN))
            self._over(CallFault.FAILED, f"The call of {self.name} cannot be taken: {error}.")
            return
        answer = self._seal.seal_answer(
            candidates=self._exchange.tell_all(),
            quic_datagrams=tuple(self._channel.datagrams(now)),
            terms=self._punching.offer_terms(),
        )
        self._say(signal.Answer(self.call_id, answer, self._punching.shows_host))
        credentials = self._seal.ice_credentials()
        self._start_ice(credentials.callee, credentials.caller, now)
        self._ready()
        self._begin_line(now)
        self._agree(offer.terms, self._observed)
        self._add_remotes(offer.candidates + self._trickled, now)

    def decline(self, reason: str) -> None:
        """Do not take the call. ``reason`` is one of :class:`Reason`."""
        if self._state is CallState.OFFERED:
            self._say(signal.Decline(self.call_id, reason))
            self._over(None, "declined here")

    def signalled(self, event: CallEvent, now: float) -> None:
        match event:
            case CallCancelled(reason=reason):
                self._cancelled(reason, now)
            case TrickleReceived(sealed=sealed):
                self._heard_trickle(sealed, now)
            case _:
                super().signalled(event, now)

    def _cancelled(self, reason: str, now: float) -> None:
        text = {
            Reason.ANSWERED_ELSEWHERE: "answered elsewhere",
            Reason.DECLINED_ELSEWHERE: "declined elsewhere",
        }.get(Reason(reason) if reason in set(Reason) else Reason.FAILED)
        if self._state is CallState.LINE and self._secured:
            self._doubt(text or f"{self.name} hung up", now)
        else:  # also when we have answered, and another device was quicker
            explained = text or explain(CallFault.CANCELLED, self.name)
            self._over(CallFault.CANCELLED, explained)

    def _heard_trickle(self, sealed: bytes, now: float) -> None:
        try:
            trickled = self._seal.open_trickle(sealed)
        except SealRefused:
            return  # altered or replayed on the way: what is known already stays
        if self._state is CallState.OFFERED:  # it rings still; ICE begins with the answer
            self._trickled = (self._trickled + trickled.candidates)[-MAX_CANDIDATES:]
            if trickled.move is not None:
                self._punching.heard(trickled.move, now)
        else:
            self._heard(trickled, now)

    def _rang_out(self) -> None:
        self._say(signal.Decline(self.call_id, Reason.NO_ANSWER))
        self._over(CallFault.CANCELLED, explain(CallFault.NO_ANSWER, self._us.name))

    def _seal_trickle(self, lines: tuple[str, ...], step: Move | TcpWord | None = None) -> bytes:
        return self._seal.seal_trickle(lines, step=step)
