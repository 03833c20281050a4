"""docs/protocol/connection.md says what the code does: values, codes, and the test vector."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from knothole.engine.secure import (
    control,
    credit,
    delivery,
    early,
    farewell,
    library,
    opening,
    outbox,
    quic,
    streams,
    timers,
)
from knothole.engine.secure.authenticate import (
    PROOF_CONTEXT,
    ClientAuthentication,
    first_flight_hash,
)
from knothole.engine.secure.certificate import identity_key
from knothole.engine.secure.control import Credit
from knothole.engine.secure.events import CloseCode
from knothole.engine.secure.identity import Identity

DOCUMENT = Path(__file__).parents[3] / "docs" / "protocol" / "connection.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
FLIGHT = (b"one", b"two")
CLIENT = Identity(
    Ed25519PrivateKey.from_private_bytes(b"\x04" * 32),
    X25519PrivateKey.from_private_bytes(b"\x05" * 32),
)


def row(label: str) -> str:
    """The second cell of the table row that begins with ``label``."""
    found = re.search(rf"^\| {re.escape(label)} \| ([^|]+) \|", TEXT, re.MULTILINE)
    assert found, f"no row {label!r}"
    return found.group(1)


def test_the_values_of_quic_are_those_of_the_code() -> None:
    assert str(library.DATAGRAM_BYTES) in row("UDP payload")
    assert str(library.CONNECTION_ID_BYTES) in row("connection IDs")
    assert str(library.FLOW_CONTROL_WINDOW) in row("max_data, max_stream_data")
    assert str(streams.CONCURRENT_STREAMS) in row("streams")
    assert str(quic.MAX_DATAGRAM_SIZE) in row("unreliable datagrams")
    assert f"{library.IDLE_TIMEOUT:g} s" in row("idle timeout")
    assert f"{timers.KEEPALIVE:g} s" in row("idle timeout")
    assert str(outbox.PACKETS_PER_KEY) in row("key update")
    assert f"ALPN is `{opening.ALPN}`" in TEXT


def test_the_bounds_named_in_the_text_are_those_of_the_code() -> None:
    for sentence in (
        f"counts as {library.INITIAL_RTT:g} s at most",
        f"1 to {opening.FIRST_FLIGHT_DATAGRAMS} datagrams",
        f"the context `{PROOF_CONTEXT.decode()}`",
        f"the first {delivery.DATAGRAMS_HELD} unreliable datagrams",
        f"at most {outbox.EARLY_BYTES} bytes of payload",
        f"the receiver, {early.PACKETS_KEPT} packets",
        f"big-endian, at most {control.LONGEST_BODY})",
        f"may send {credit.FIRST_WINDOW} bytes",
        f"up to {credit.LARGEST_WINDOW} bytes",
        f"grow by {credit.LARGEST_WINDOWS_TOGETHER} bytes",
        f"up to {farewell.REPEATS} times",
    ):
        assert sentence in TEXT


def test_the_codes_are_those_of_the_code() -> None:
    table = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", TEXT, re.MULTILINE)
    assert {(int(number), name) for number, name in table} == {
        (code.value, code.name) for code in CloseCode
    }


def test_the_test_vector_is_what_the_code_makes() -> None:
    server_key = b"\x01" * 32
    authentication = ClientAuthentication(CLIENT, b"\x02" * 32, FLIGHT)
    authentication.expect(server_key, b"\x03" * 32)
    proven = authentication.prove(bytes.fromhex("302a300506032b6570032100") + server_key)
    assert proven is not None
    proof = proven[1].encode()
    assert identity_key(bytes.fromhex("302a300506032b6570032100") + server_key) == server_key
    assert row("client's key") == f"`{CLIENT.public_key.hex()}`"
    assert row("flight_hash") == f"`{first_flight_hash(FLIGHT).hex()}`"
    assert row("signature") == f"`{proof[-64:].hex()}`"
    assert row("Proof message") == f"`{proof[:3].hex()}`, client's nonce, signature"
    assert row("Credit of stream 4, limit 524288") == f"`{Credit(4, 524288).encode().hex()}`"
