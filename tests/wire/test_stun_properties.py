"""Whatever can be said can be read: messages of arbitrary attributes there and back."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st

from knothole.wire import stun
from knothole.wire.address import Address
from knothole.wire.stun import Attribute, Message, MessageClass

ports = st.integers(0, 0xFFFF)
addresses = st.builds(
    Address, st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number))), ports
) | st.builds(
    Address, st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number))), ports
)
texts = st.text(max_size=127)
uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
algorithms = st.builds(stun.PasswordAlgorithm, ports, st.binary(max_size=20))
attributes: st.SearchStrategy[Attribute] = st.one_of(
    st.builds(stun.MappedAddress, addresses),
    st.builds(stun.XorMappedAddress, addresses),
    st.builds(stun.XorPeerAddress, addresses),
    st.builds(stun.XorRelayedAddress, addresses),
    st.builds(stun.AlternateServer, addresses),
    st.builds(stun.OtherAddress, addresses),
    st.builds(stun.Username, texts.filter(lambda text: len(text.encode()) < 509)),
    st.builds(stun.Realm, texts),
    st.builds(stun.Software, texts),
    st.builds(stun.Nonce, st.binary(max_size=763)),
    st.builds(stun.Data, st.binary(max_size=2000)),
    st.builds(stun.ErrorCode, st.integers(300, 699), texts),
    st.builds(stun.AddressErrorCode, st.integers(0, 255), st.integers(300, 699), texts),
    st.builds(stun.UnknownAttributes, st.lists(ports, max_size=20).map(tuple)),
    st.builds(stun.PasswordAlgorithms, st.lists(algorithms, max_size=4).map(tuple)),
    algorithms,
    st.builds(stun.Priority, uint32),
    st.builds(stun.Lifetime, uint32),
    st.builds(stun.IceControlled, uint64),
    st.builds(stun.IceControlling, uint64),
    st.builds(stun.ChangeRequest, st.booleans(), st.booleans()),
    st.builds(stun.Icmp, st.integers(0, 127), st.integers(0, 511), uint32),
    st.builds(stun.UnknownAttribute, st.sampled_from([0x7F00, 0xFF00]), st.binary(max_size=50)),
)
messages = st.builds(
    Message,
    st.sampled_from(MessageClass),
    st.integers(0, 0xFFF),
    st.binary(min_size=12, max_size=12),
    st.lists(attributes, max_size=8, unique_by=type).map(tuple),
)
keys = st.none() | st.binary(max_size=64)


@settings(derandomize=True, deadline=None)
@given(message=messages, key=keys, sha256_key=keys, fingerprint=st.booleans())
def test_what_is_encoded_is_what_is_decoded(
    message: Message, key: bytes | None, sha256_key: bytes | None, fingerprint: bool
) -> None:
    data = stun.encode(message, key=key, sha256_key=sha256_key, fingerprint=fingerprint)
    assert stun.looks_like_stun(data)
    again = stun.decode(data)
    assert again == message
    assert again.has_fingerprint is fingerprint
    assert again.has_integrity is (key is not None)
    assert again.has_integrity_sha256 is (sha256_key is not None)
    assert key is None or stun.verify_integrity(again, key)
    assert sha256_key is None or stun.verify_integrity_sha256(again, sha256_key)
    assert not stun.verify_integrity(again, b"another key, of which there is none")


@settings(derandomize=True, deadline=None)
@given(message=messages, at=st.integers(0, 5000), bit=st.integers(0, 7))
def test_one_flipped_bit_is_always_noticed_by_the_fingerprint(
    message: Message, at: int, bit: int
) -> None:
    data = bytearray(stun.encode(message, fingerprint=True))
    data[at % len(data)] ^= 1 << bit
    try:
        again = stun.decode(bytes(data))
    except stun.MalformedMessage:
        return
    # Only a flip in FINGERPRINT's own type leaves a message, and that one has no fingerprint.
    assert not again.has_fingerprint
