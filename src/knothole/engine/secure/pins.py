"""Keys seen before: trust on first use, and no silent change after it, as ssh does.

Values only; the file they are kept in is the profile's business.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from knothole.engine.secure.identity import PeerKeys, fingerprint
from knothole.wire.signal.values import Key, Name, Signature

_FORMAT: Final = 1


class MalformedPins(ValueError):
    """The bytes are no list of known peers; the text says what is wrong with them."""


class Verdict(enum.Enum):
    """How a key compares with the one this peer had before."""

    NEW = enum.auto()
    SAME = enum.auto()
    CHANGED = enum.auto()


class KnownPeer(Struct, frozen=True, omit_defaults=True):
    """Somebody we have spoken with.

    ``server`` is the identity of the server that knows the name (ServerUrl.identity),
    ``first_seen`` is Unix time in seconds. The sealing key is kept, so that a call needs no lookup
    first; None when it is not known. ``compared`` says that people compared the words.
    """

    server: Annotated[str, Meta(max_length=300)]
    name: Name
    public_key: Key
    first_seen: int
    sealing_key: Key | None = None
    sealing_signature: Signature | None = None
    compared: bool = False

    @property
    def keys(self) -> PeerKeys | None:
        """What a call to this peer is sealed with, None when a lookup is needed first."""
        if self.sealing_key is None or self.sealing_signature is None:
            return None
        return PeerKeys(self.name, self.public_key, self.sealing_key, self.sealing_signature)


@dataclass(slots=True)
class KnownPeers:
    """Known peers by server and name."""

    _peers: dict[tuple[str, str], KnownPeer] = field(default_factory=dict)

    def __iter__(self) -> Iterator[KnownPeer]:
        return iter(sorted(self._peers.values(), key=lambda peer: (peer.server, peer.name)))

    def __len__(self) -> int:
        return len(self._peers)

    def get(self, server: str, name: str) -> KnownPeer | None:
        return self._peers.get((server, name))

    def check(self, server: str, name: str, public_key: bytes) -> Verdict:
        """How ``public_key`` compares with what we know; nothing is remembered by this."""
        known = self._peers.get((server, name))
        if known is None:
            return Verdict.NEW
        return Verdict.SAME if known.public_key == public_key else Verdict.CHANGED

    def remember(
        self, server: str, name: str, public_key: bytes, now_unix: int, keys: PeerKeys | None = None
    ) -> Verdict:
        """Remember a key that QUIC has authenticated, with the sealing key when we know it.

        CHANGED remembers nothing: only :meth:`forget` makes room for another key.
        """
        verdict = self.check(server, name, public_key)
        if verdict is Verdict.CHANGED:
            return verdict
        known = self._peers.get((server, name)) or KnownPeer(server, name, public_key, now_unix)
        if keys is not None and (keys.name, keys.public_key) == (name, public_key):
            known = msgspec.structs.replace(
                known, sealing_key=keys.sealing_key, sealing_signature=keys.sealing_signature
            )
        self._peers[server, name] = known
        return verdict

    def mark_compared(self, server: str, name: str) -> bool:
        """Two people found their words to be the same. False when nobody is known by that name."""
        known = self._peers.get((server, name))
        if known is None:
            return False
        self._peers[server, name] = msgspec.structs.replace(known, compared=True)
        return True

    def forget(self, server: str, name: str) -> bool:
        """Forget a peer, so that the next key is a new one. False when there was none."""
        return self._peers.pop((server, name), None) is not None

    def to_bytes(self) -> bytes:
        """JSON, one peer after the other, for people to read."""
        return msgspec.json.format(msgspec.json.encode(_File(_FORMAT, tuple(self))), indent=2)

    @classmethod
    def from_bytes(cls, data: bytes) -> KnownPeers:
        """What :meth:`to_bytes` wrote. Raises :class:`MalformedPins`."""
        try:
            file = msgspec.json.decode(data, type=_File)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise MalformedPins(f"the list of known peers is damaged: {error}") from error
        if file.format != _FORMAT:
            raise MalformedPins(
                f"the list of known peers has format {file.format}; this program reads {_FORMAT}"
            )
        return cls({(peer.server, peer.name): peer for peer in file.peers})


def changed_key_text(known: KnownPeer, offered_key: bytes) -> str:
    """What a person reads when a known peer suddenly has another key."""
    compared = " You compared words with that key." if known.compared else ""
    return (
        f"THE KEY OF {known.name} HAS CHANGED. Somebody may be pretending to be {known.name}, or "
        f"{known.name} has a new profile. The key known here is {fingerprint(known.public_key)}, "
        f"the one shown now is {fingerprint(offered_key)}.{compared} Nothing was sent. Ask "
        f"{known.name} in another way; if the new key is right, forget the old one with "
        f"`knothole contacts --forget {known.name}` and call again."
    )


class _File(Struct, frozen=True):
    format: int
    peers: tuple[KnownPeer, ...]
