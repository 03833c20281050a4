"""Access tokens: the bytes of RFC 7635 Section 6.2."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from knothole.wire.malformed import MalformedMessage
from knothole.wire.oauth import (
    SealedToken,
    TokenContent,
    decode_content,
    decode_token,
    encode_content,
    encode_token,
)

# $ turnutils_oauth -e -v -i turn.example.org -j kid1 -k "$(printf 'k%.0s' {1..32} | base64 -w0)" \
#     -l 1700000000 -m 1000000000 -n A256GCM -o "$(printf 'n%.0s' {1..12} | base64 -w0)" \
#     -p "$(printf 'm%.0s' {1..32} | base64 -w0)" -q 111411200000000 -r 3600
COTURN = base64.b64decode(
    "AAxubm5ubm5ubm5ubm6YG4rdfNnotCFJZinuxMG57oay0X3cQ4lQFw4j36J0TsLDS4pqDsJ11Ni1tqKg7vG9ectympvS"
    "fi0URjh+XA=="
)
CONTENT = TokenContent(b"m" * 32, 1_700_000_000.0, 3600)

# RFC 7635 Appendix A; AES-128 has the first half of the key.
SAMPLE_KEY = b"HGkj32KJGiuy098sdfaqbNjOiaz71923"
SAMPLE = TokenContent(b"ZksjpweoixXmvn67534m", 1_410_984_813.0, 3600)
SAMPLES = {
    32: "000c68346a336b326c326e3462"
    "35617ef134a3d5e44e9a19cc7d"
    "c104b0c03d03b2a551d8fdf5cd"
    "3b6dca6f10cfb77e5b2ddec84d"
    "293a5c50499359f0c2e26f76",
    16: "000c68346a336b326c326e3462"
    "357fb9e99f0827be3df1e1bd65"
    "1493d3031d36df57079784aee5"
    "eacb65fad4f27fab1a3f97974b"
    "69f851b24bf5af09eda357e0",
}


def test_a_token_of_coturn_is_read_and_made_to_the_byte() -> None:
    token = decode_token(COTURN)
    assert token.nonce == b"n" * 12
    cipher, name = AESGCM(b"k" * 32), b"turn.example.org"
    assert decode_content(cipher.decrypt(token.nonce, token.sealed, name)) == CONTENT
    sealed = cipher.encrypt(b"n" * 12, encode_content(CONTENT), name)
    assert encode_token(SealedToken(b"n" * 12, sealed)) == COTURN


@pytest.mark.parametrize("key_size", SAMPLES)
def test_the_sample_tickets_of_the_rfc_are_read_and_made_to_the_byte(key_size: int) -> None:
    whole = bytes.fromhex(SAMPLES[key_size])
    token = decode_token(whole)
    cipher, name = AESGCM(SAMPLE_KEY[:key_size]), b"blackdow.carleon.gov"
    assert decode_content(cipher.decrypt(token.nonce, token.sealed, name)) == SAMPLE
    sealed = cipher.encrypt(token.nonce, encode_content(SAMPLE), name)
    assert encode_token(SealedToken(token.nonce, sealed)) == whole


def test_fractions_of_a_second_are_kept() -> None:
    content = TokenContent(b"m" * 20, 1_700_000_000.25, 1)
    assert decode_content(encode_content(content)) == content


@pytest.mark.parametrize("size", [0, 1, 2, 13, 14, 30, 14 + 2 + 20 + 12 + 15])
def test_a_token_that_is_cut_off_is_malformed(size: int) -> None:
    with pytest.raises(MalformedMessage):
        decode_token(COTURN[:size])


@pytest.mark.parametrize("nonce_size", [0, 11, 13, 74, 75, 0xFFFF])
def test_a_nonce_of_another_length_is_malformed_before_anything_is_opened(nonce_size: int) -> None:
    with pytest.raises(MalformedMessage):
        decode_token(nonce_size.to_bytes(2, "big") + COTURN[2:])


def test_a_token_longer_than_any_key_makes_it_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        decode_token(COTURN + bytes(40))


@pytest.mark.parametrize("key_size", [0, 19, 31, 33, 65, 0xFFFF])
def test_a_key_length_that_does_not_add_up_is_malformed(key_size: int) -> None:
    block = encode_content(CONTENT)
    with pytest.raises(MalformedMessage):
        decode_content(key_size.to_bytes(2, "big") + block[2:])


@pytest.mark.parametrize("size", [0, 1, 2, 34, 45])
def test_an_opened_block_that_is_cut_off_is_malformed(size: int) -> None:
    with pytest.raises(MalformedMessage):
        decode_content(encode_content(CONTENT)[:size])


def test_keys_are_not_shown() -> None:
    assert "mmm" not in repr(CONTENT)
