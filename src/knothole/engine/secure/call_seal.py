"""One call's sealed statements from both ends: offer, answer and trickled candidates."""

from __future__ import annotations

import base64
import hashlib
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from knothole.engine.core import RandomBytes
from knothole.engine.secure.identity import KEY_BYTES, Identity, PeerKeys, can_be_sealed_to
from knothole.engine.secure.replay import SeenCalls
from knothole.engine.secure.seal import SealFault, SealRefused, open_statement, seal_statement
from knothole.engine.secure.words import NONCE_BYTES, words_commitment
from knothole.wire.malformed import MalformedMessage
from knothole.wire.signal.content import (
    Body,
    BodyT,
    CallAnswer,
    CallOffer,
    ContentKind,
    Statement,
    TrickledCandidates,
    decode_body,
    encode_content,
)
from knothole.wire.signal.plans import Move, PlanTerms
from knothole.wire.signal.tcp import TcpWord

_ICE_CONTEXT: Final = b"knothole/1 ice\x00"


class DerivedIceCredentials(NamedTuple):
    """ICE credentials of one side: 8 and 32 characters (RFC 8445 Section 5.3 asks 4 and 22)."""

    ufrag: str
    password: str

    def __repr__(self) -> str:
        return f"DerivedIceCredentials(ufrag={self.ufrag!r})"


class CallCredentials(NamedTuple):
    """Both sides' ICE credentials between the caller and one device of the callee."""

    caller: DerivedIceCredentials
    callee: DerivedIceCredentials


def derive_ice_credentials(secret: bytes, device_id: bytes) -> CallCredentials:
    """The ICE credentials that follow from the offer's ``secret`` for the callee's ``device_id``.

    Derived rather than sent, so that the caller can start its checks towards a device on file
    before that device has answered, and so that two devices never share credentials.
    """
    return CallCredentials(
        *(
            _ice_credentials(secret, _ICE_CONTEXT + side + b"\x00" + device_id)
            for side in (b"caller", b"callee")
        )
    )


class CallerSeal:
    """The caller's half of one call."""

    def __init__(
        self, *, identity: Identity, name: str, peer: PeerKeys, call_id: bytes, random: RandomBytes
    ) -> None:
        """``name`` is ours, ``peer`` the person called, as pinned or looked up; ``call_id`` has 16
        bytes and is used for this call only.

        Raises :class:`SealRefused` when the peer's sealing key is not signed by the peer's key or
        cannot be sealed to; nothing said later raises it.
        """
        if not peer.verify():
            raise SealRefused(
                SealFault.UNUSABLE_KEY,
                f"the sealing key of {peer.name} is not signed by its owner, or is none",
            )
        self._identity = identity
        self._name = name
        self._peer = peer
        self.call_id: Final = call_id
        self._secret = random(KEY_BYTES)
        self._reply = X25519PrivateKey.from_private_bytes(random(KEY_BYTES))
        self.words_nonce: Final[bytes] = random(NONCE_BYTES)
        """To be revealed inside QUIC, after the answer."""
        self._offer_hash: bytes | None = None
        self._sequence = 0
        self._answered: set[bytes] = set()
        self._heard: dict[bytes, int] = {}

    @property
    def sealed_to(self) -> bytes:
        """The sealing key that Call names."""
        return self._peer.sealing_key

    def ice_credentials(self, device_id: bytes) -> CallCredentials:
        return derive_ice_credentials(self._secret, device_id)

    def seal_offer(
        self,
        *,
        kind: str,
        app: str = "",
        candidates: tuple[str, ...] = (),
        quic_datagrams: tuple[bytes, ...] = (),
        terms: PlanTerms | None = None,
    ) -> bytes:
        """The sealed offer. Once a call: everything after it is bound to its hash."""
        if self._offer_hash is not None:
            raise RuntimeError("the offer of this call is sealed already")
        sealed = self._seal(
            ContentKind.OFFER,
            CallOffer(
                secret=self._secret,
                reply_key=self._reply.public_key().public_bytes_raw(),
                words_commitment=words_commitment(self.words_nonce),
                kind=kind,
                app=app,
                candidates=candidates,
                quic_datagrams=quic_datagrams,
                terms=terms,
            ),
        )
        self._offer_hash = hashlib.sha256(sealed).digest()
        return sealed

    def seal_trickle(
        self,
        candidates: tuple[str, ...] = (),
        *,
        end: bool = False,
        step: Move | TcpWord | None = None,
    ) -> bytes:
        """More candidates for every device of the callee, or the next step of a plan or of TCP."""
        self._sequence += 1
        return self._seal(ContentKind.TRICKLE, _trickled(candidates, end, step))

    def open_answer(self, device_id: bytes, sealed: bytes) -> CallAnswer:
        """The answer of ``device_id``. Raises :class:`SealRefused`."""
        statement = self._open(ContentKind.ANSWER, device_id, sealed)
        answer = _body(statement, CallAnswer)
        if device_id in self._answered:
            raise SealRefused(SealFault.REPLAYED, f"{self._peer.name} has answered already")
        self._answered.add(device_id)
        return answer

    def open_trickle(self, device_id: bytes, sealed: bytes) -> TrickledCandidates:
        """Candidates of ``device_id``. Raises :class:`SealRefused`."""
        statement = self._open(ContentKind.TRICKLE, device_id, sealed)
        self._heard[device_id] = _in_order(statement, self._heard.get(device_id, 0))
        return _body(statement, TrickledCandidates)

    def _seal(self, kind: ContentKind, body: Body) -> bytes:
        statement = Statement(
            kind=kind,
            call_id=self.call_id,
            from_name=self._name,
            from_key=self._identity.public_key,
            to_name=self._peer.name,
            to_key=self._peer.public_key,
            body=encode_content(body),
            about=self._offer_hash,
            sequence=self._sequence,
        )
        return seal_statement(self._identity, statement, self._peer.sealing_key)

    def _open(self, kind: ContentKind, device_id: bytes, sealed: bytes) -> Statement:
        return open_statement(
            sealed,
            self._reply,
            kind=kind,
            call_id=self.call_id,
            from_name=self._peer.name,
            from_key=self._peer.public_key,
            to_name=self._name,
            to_key=self._identity.public_key,
            device_id=device_id,
            about=self._offer_hash,
        )


class CalleeSeal:
    """The half of one call that one device of the callee holds."""

    def __init__(
        self,
        sealed_offer: bytes,
        *,
        identity: Identity,
        name: str,
        device_id: bytes,
        call_id: bytes,
        from_name: str,
        from_key: bytes,
        seen: SeenCalls,
        random: RandomBytes,
    ) -> None:
        """Opens what Incoming brought. ``name`` and ``device_id`` are ours; ``seen`` is one for the
        whole process.

        ``from_key`` is only the server's word until the caller compares it with the pinned key
        (:mod:`knothole.engine.secure.pins`) or people compare words. Raises :class:`SealRefused`.
        """
        self._identity = identity
        self._name = name
        self._device_id = device_id
        self.call_id: Final = call_id
        self.caller_name: Final = from_name
        self.caller_key: Final = from_key
        self._offer_hash: bytes | None = None
        statement = self._open(ContentKind.OFFER, sealed_offer)
        self.offer: Final[CallOffer] = _body(statement, CallOffer)
        if not can_be_sealed_to(self.offer.reply_key):
            raise SealRefused(
                SealFault.UNUSABLE_KEY, f"the call of {from_name} names no key to answer to"
            )
        if not seen.remember(from_key, call_id):
            raise SealRefused(
                SealFault.REPLAYED, f"this call of {from_name} was offered before; it is a replay"
            )
        self._offer_hash = hashlib.sha256(sealed_offer).digest()
        self.words_nonce: Final[bytes] = random(NONCE_BYTES)
        self._sequence = 0
        self._heard = 0

    def ice_credentials(self) -> CallCredentials:
        return derive_ice_credentials(self.offer.secret, self._device_id)

    def seal_answer(
        self,
        *,
        candidates: tuple[str, ...] = (),
        quic_datagrams: tuple[bytes, ...] = (),
        terms: PlanTerms | None = None,
    ) -> bytes:
        """The sealed answer."""
        return self._seal(
            ContentKind.ANSWER, CallAnswer(self.words_nonce, candidates, quic_datagrams, terms)
        )

    def seal_trickle(
        self,
        candidates: tuple[str, ...] = (),
        *,
        end: bool = False,
        step: Move | TcpWord | None = None,
    ) -> bytes:
        """More candidates for the caller, or the next step of a plan or of TCP."""
        self._sequence += 1
        return self._seal(ContentKind.TRICKLE, _trickled(candidates, end, step))

    def open_trickle(self, sealed: bytes) -> TrickledCandidates:
        """Candidates of the caller. Raises :class:`SealRefused`."""
        statement = self._open(ContentKind.TRICKLE, sealed)
        self._heard = _in_order(statement, self._heard)
        return _body(statement, TrickledCandidates)

    def _seal(self, kind: ContentKind, body: Body) -> bytes:
        statement = Statement(
            kind=kind,
            call_id=self.call_id,
            from_name=self._name,
            from_key=self._identity.public_key,
            to_name=self.caller_name,
            to_key=self.caller_key,
            body=encode_content(body),
            device_id=self._device_id,
            about=self._offer_hash,
            sequence=self._sequence,
        )
        return seal_statement(self._identity, statement, self.offer.reply_key)

    def _open(self, kind: ContentKind, sealed: bytes) -> Statement:
        return open_statement(
            sealed,
            self._identity.sealing_private_key,
            kind=kind,
            call_id=self.call_id,
            from_name=self.caller_name,
            from_key=self.caller_key,
            to_name=self._name,
            to_key=self._identity.public_key,
            device_id=None,
            about=self._offer_hash,
        )


def _trickled(
    candidates: tuple[str, ...], end: bool, step: Move | TcpWord | None
) -> TrickledCandidates:
    if isinstance(step, TcpWord):
        return TrickledCandidates(candidates, end, tcp=step)
    return TrickledCandidates(candidates, end, step)


def _body(statement: Statement, kind: type[BodyT]) -> BodyT:
    try:
        return decode_body(statement.body, kind)
    except MalformedMessage as error:
        raise SealRefused(
            SealFault.MALFORMED, f"the {statement.kind.value} makes no sense"
        ) from error


def _in_order(statement: Statement, last: int) -> int:
    if statement.sequence <= last:
        raise SealRefused(SealFault.REPLAYED, "candidates that were sent before came again")
    return statement.sequence


def _ice_credentials(secret: bytes, info: bytes) -> DerivedIceCredentials:
    material = HKDF(algorithm=SHA256(), length=30, salt=None, info=info).derive(secret)
    # RFC 8839 Section 5.4: ice-char is exactly the alphabet of standard base64 without padding.
    text = base64.b64encode(material).decode("ascii")
    return DerivedIceCredentials(text[:8], text[8:])
