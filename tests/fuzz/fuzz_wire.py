"""Coverage-guided fuzzing of every decoder of foreign bytes in wire/.

    .venv/bin/python tests/fuzz/fuzz_wire.py TARGET [CORPUS_DIR...] [-runs=N] [libFuzzer options]

A target takes bytes and fails by raising anything but MalformedMessage, or by an assertion: what
was decoded must encode again, and decode to the same. The corpus under tests/fuzz/corpus is
replayed by the test suite (tests/fuzz/test_fuzz_corpus.py).
"""

from __future__ import annotations

import contextlib
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

CORPUS = Path(__file__).parent / "corpus"


def fuzz_stun(data: bytes) -> None:
    """One datagram, as ICE and TURN take it and as the STUN server does."""
    from knothole.wire import stun

    looks = stun.looks_like_stun(data)
    for classic in (False, True):
        try:
            message = stun.decode(data, classic=classic)
        except stun.MalformedMessage:
            continue
        assert looks or not message.cookie
        stun.verify_integrity(message, b"key")
        stun.verify_integrity_sha256(message, b"key", least_size=16)
        assert all(kind < 0x8000 for kind in message.unknown_required)
        nonce = message.get(stun.Nonce)
        if nonce is not None:
            stun.security_features(nonce.value)
        with contextlib.suppress(ValueError):  # text longer than we may send
            again = stun.decode(stun.encode(message, key=b"k", fingerprint=True), classic=classic)
            assert again == message
            assert stun.verify_integrity(again, b"k")


def fuzz_channel_data(data: bytes) -> None:
    """One ChannelData message."""
    from knothole.wire import turn
    from knothole.wire.malformed import MalformedMessage

    with contextlib.suppress(MalformedMessage):
        number, payload = turn.decode_channel_data(data)
        assert data.startswith(turn.encode_channel_data(number, payload, padded=False))


def fuzz_stream(data: bytes) -> None:
    """A stream; the first byte says in which pieces it arrives."""
    from knothole.wire.malformed import MalformedMessage
    from knothole.wire.turn import StreamFramer

    step = data[0] + 1 if data else 1
    stream = data[1:]
    with contextlib.suppress(MalformedMessage):
        framer = StreamFramer()
        pieces: list[bytes] = []
        for at in range(0, len(stream), step):
            pieces += framer.feed(stream[at : at + step])
        assert pieces == StreamFramer().feed(stream)
        assert sum(map(len, pieces)) <= len(stream)


def fuzz_framed(data: bytes) -> None:
    """Datagrams on a connection; the first byte says in which pieces it arrives."""
    from knothole.wire.framed import Unframer, frame

    step = data[0] + 1 if data else 1
    stream = data[1:]
    unframer = Unframer()
    pieces: list[bytes] = []
    for at in range(0, len(stream), step):
        pieces += unframer.feed(stream[at : at + step])
    assert pieces == Unframer().feed(stream)
    assert Unframer().feed(b"".join(map(frame, pieces))) == pieces


def fuzz_candidate(data: bytes) -> None:
    """One candidate line."""
    from knothole.wire.candidate import decode_candidate, encode_candidate
    from knothole.wire.malformed import MalformedMessage

    with contextlib.suppress(MalformedMessage):
        candidate = decode_candidate(data.decode(errors="replace"))
        with contextlib.suppress(ValueError):  # longer than a line, once written out
            assert decode_candidate(encode_candidate(candidate)) == candidate


def fuzz_signal(data: bytes) -> None:
    """One WebSocket message, from either side, binary and text."""
    from knothole.wire.malformed import MalformedMessage
    from knothole.wire.signal import codec

    for received in (data, data.decode(errors="replace")):
        codec.registration_version(received)
        for decode in (codec.decode_from_client, codec.decode_from_server):
            with contextlib.suppress(MalformedMessage):
                message = decode(received)
                assert decode(codec.encode(message)) == message


def fuzz_signal_content(data: bytes) -> None:
    """What is inside a seal."""
    from knothole.wire.malformed import MalformedMessage
    from knothole.wire.signal import content

    bodies = (content.CallOffer, content.CallAnswer, content.TrickledCandidates)
    for decode in (content.decode_statement, content.decode_signed_statement):
        with contextlib.suppress(MalformedMessage):
            decode(data)
    for kind in bodies:
        with contextlib.suppress(MalformedMessage):
            assert isinstance(content.decode_body(data, kind), msgspec.Struct)


def fuzz_portmap(data: bytes) -> None:
    """What a gateway sends: PCP, NAT-PMP, or the answer to a search for UPnP."""
    from knothole.wire.malformed import MalformedMessage
    from knothole.wire.portmap import natpmp, pcp, ssdp

    for decode in (pcp.decode_response, natpmp.decode_response, ssdp.decode_answer):
        with contextlib.suppress(MalformedMessage):
            hash(decode(data))


def fuzz_voice(data: bytes) -> None:
    """One datagram of a call."""
    from knothole.wire.malformed import MalformedMessage
    from knothole.wire.voice import decode_voice, encode_voice

    with contextlib.suppress(MalformedMessage):
        packet = decode_voice(data)
        assert decode_voice(encode_voice(packet)) == packet


def fuzz_access_token(data: bytes) -> None:
    """What a client shows of another server's word, and what is sealed in it."""
    from knothole.wire import oauth
    from knothole.wire.malformed import MalformedMessage

    with contextlib.suppress(MalformedMessage):
        assert oauth.encode_token(oauth.decode_token(data)) == data
    with contextlib.suppress(MalformedMessage):
        content = oauth.decode_content(data)
        with contextlib.suppress(struct.error):  # fractions beyond a second
            again = oauth.decode_content(oauth.encode_content(content))
            assert again.mac_key == content.mac_key


TARGETS: dict[str, Callable[[bytes], None]] = {
    "stun": fuzz_stun,
    "channel-data": fuzz_channel_data,
    "stream": fuzz_stream,
    "framed": fuzz_framed,
    "candidate": fuzz_candidate,
    "signal": fuzz_signal,
    "signal-content": fuzz_signal_content,
    "voice": fuzz_voice,
    "portmap": fuzz_portmap,
    "access-token": fuzz_access_token,
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(TARGETS)} [CORPUS_DIR...] [-runs=N]")
    import atheris

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["knothole.wire"]):
        import knothole.wire.candidate
        import knothole.wire.framed
        import knothole.wire.oauth
        import knothole.wire.portmap.natpmp
        import knothole.wire.portmap.pcp
        import knothole.wire.portmap.ssdp
        import knothole.wire.signal
        import knothole.wire.stun
        import knothole.wire.turn
        import knothole.wire.voice  # noqa: F401
    # libFuzzer writes what it finds to the first folder: a scratch one, not the repository's.
    if not any(not each.startswith("-") for each in sys.argv[1:]):
        sys.argv.append(tempfile.mkdtemp(prefix=f"knothole-fuzz-{name}-"))
    scratch = next(each for each in sys.argv[1:] if not each.startswith("-"))
    if not any(each.startswith("-artifact_prefix=") for each in sys.argv):
        sys.argv.append(f"-artifact_prefix={scratch}/")
    sys.argv.append(str(CORPUS / name))
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
