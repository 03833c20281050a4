"""docs/protocol/signal.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from knothole.engine.rendezvous import call_failures, calls, client_calls, link, server
from knothole.engine.rendezvous.backoff import DELAYS_SECONDS
from knothole.engine.rendezvous.limits import Limits
from knothole.engine.rendezvous.registration import make_register
from knothole.engine.secure.call_seal import derive_ice_credentials
from knothole.engine.secure.identity import Identity
from knothole.engine.secure.replay import REMEMBERED_CALLS
from knothole.engine.secure.words import comparison_words, words_commitment
from knothole.wire.server_url import format_pin
from knothole.wire.signal import content, values
from knothole.wire.signal import messages as m

DOCUMENT = (Path(__file__).parents[3] / "docs/protocol/signal.md").read_text()


def section(title: str) -> str:
    """The text under a heading, up to the next heading of any level."""
    return re.split(r"^#+ ", DOCUMENT.partition(f"# {title}\n")[2], maxsplit=1, flags=re.M)[0]


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def fields(kind: type[msgspec.Struct]) -> str:
    return ", ".join(
        field.name + ("" if field.required else "?") for field in msgspec.structs.fields(kind)
    )


@pytest.mark.parametrize(
    ("title", "union"),
    [("Client to server", m.ClientMessage), ("Server to client", m.ServerMessage)],
)
def test_every_message_stands_in_its_table(title: str, union: Any) -> None:
    documented = {name: (tag.strip("`"), listed) for name, tag, listed in rows(title)[:19]}
    assert documented == {
        kind.__name__: (kind.__struct_config__.tag, fields(kind)) for kind in union.__args__
    }


def test_every_code_is_listed() -> None:
    listed = {
        where: re.findall(r"`([a-z-]+)`", codes)
        for where, codes, *_ in rows("Server to client")[19:]
        if where in ("Refused", "CallFailed", "reasons", "Problem")
    }
    assert listed == {
        "Refused": [code.value for code in values.Refusal],
        "CallFailed": [code.value for code in values.Failure],
        "reasons": [code.value for code in values.Reason],
        "Problem": [code.value for code in values.Trouble],
    }
    for failure in values.Failure:
        assert call_failures.call_failed(b"c" * 16, failure).text


@pytest.mark.parametrize(
    "kind",
    [
        content.Statement,
        content.CallOffer,
        content.CallAnswer,
        content.TrickledCandidates,
    ],
)
def test_sealed_content_is_listed_field_by_field(kind: type[msgspec.Struct]) -> None:
    (listed,) = re.findall(rf"\*\*{kind.__name__}\*\*: (.*)", DOCUMENT)
    assert re.sub(r" \(`[^)]*\)", "", listed) == fields(kind)


@pytest.mark.parametrize(
    "sentence",
    [
        f"at most {values.MAX_MESSAGE_BYTES} bytes",
        f"1 to {values.MAX_SEALED_BYTES} bytes",
        f"at most {values.MAX_CANDIDATES} in a list",
        f"`names` (at most {values.MAX_NAMES})",
        f"1 to {values.MAX_EARLY_DATAGRAMS} of 1 to {values.MAX_DATAGRAM_BYTES} bytes",
        f"`quic_datagrams` (at most {content.MAX_FLIGHT_DATAGRAMS})",
        f"ends after {calls.RING_SECONDS:.0f} s with `no-answer`",
        f"registers again within {calls.GRACE_SECONDS:.0f} s",
        f"kept for {calls.LINGER_SECONDS:.0f} s while one side is away",
        f"within {client_calls.ORPHAN_SECONDS:.0f} s of its own re-registration",
        f"cancels of the last {client_calls.RECANCEL_SECONDS:.0f} s",
        f"send Ping when {link.PING_SECONDS:.0f} s have passed",
        f"nothing comes for {link.PONG_SECONDS:.0f} s after a Ping",
        f"a registration has held for {link.STABLE_SECONDS:.0f} s",
        f"heard nothing from for {server.IDLE_SECONDS:.0f} s",
        f"not registered after {server.REGISTRATION_SECONDS:.0f} s",
        f"after at most {', '.join(f'{delay:g}' for delay in DELAYS_SECONDS)}, 3, ... s",
        f"remembers them ({REMEMBERED_CALLS} of them)",
        f"on up to {Limits().devices_per_name} devices at once",
        f"({16384 - 48})".replace("(", "ends at ").replace(")", ""),
    ],
)
def test_every_number_is_the_one_in_the_code(sentence: str) -> None:
    assert sentence in DOCUMENT


def test_the_limits_are_those_of_the_server() -> None:
    limits = Limits()
    assert [limit for _, limit in rows("5.7 Limits")] == [
        f"{limits.messages.burst} at once, {limits.messages.per_second}/s",
        f"{limits.message_bytes.burst >> 20} MiB at once, "
        f"{limits.message_bytes.per_second >> 10} KiB/s",
        f"{limits.calls.burst} at once, {limits.calls.per_second}/s",
        f"{limits.lookups.burst} at once, {limits.lookups.per_second}/s",
        f"{limits.new_names.burst} at once, {limits.new_names.per_second * 3600:.0f} an hour, "
        "for each IPv4 address or IPv6 /64",
        f"{limits.watched_names}",
        f"{limits.unanswered_calls_per_caller}, of one caller to one callee "
        f"{limits.unanswered_calls_per_pair}",
        f"{limits.ringing_calls_per_callee}",
        f"{limits.calls_per_caller}",
        f"{limits.malformed_messages}, then the connection is closed",
    ]
    assert f"{limits.early.burst >> 10} KiB at once and {limits.early.per_second >> 10} KiB/s" in (
        DOCUMENT
    )


def test_the_vectors_are_what_the_code_gives() -> None:
    identity = Identity(
        Ed25519PrivateKey.from_private_bytes(b"\x01" * 32),
        X25519PrivateKey.from_private_bytes(b"\x02" * 32),
    )
    register = make_register(
        identity=identity,
        name="alice",
        device_id=b"\x03" * 16,
        nonce=b"\x04" * 32,
        server_pin=b"\x05" * 32,
    )
    ice = derive_ice_credentials(b"\x06" * 32, b"\x03" * 16)
    words = comparison_words(identity.public_key, b"\x08" * 32, b"\x07" * 32, b"\x09" * 32)
    expected = {
        "public key": [identity.public_key.hex()],
        "sealing key (public)": [identity.sealing_key.hex()],
        "sealing signature": [identity.sealing_signature.hex()],
        "Register signature of `alice`": [register.signature.hex()],
        "ICE caller": list(ice.caller),
        "ICE callee": list(ice.callee),
        "words commitment": [words_commitment(b"\x07" * 32).hex()],
        "words": list(words),
        "server pin in an address": [format_pin(b"\x05" * 32)],
    }
    assert {what: re.findall(r"`([^`]+)`", cell) for what, cell in rows("8. Test vectors")} == (
        expected
    )
