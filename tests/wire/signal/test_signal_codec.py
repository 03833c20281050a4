from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from knothole.wire import nat
from knothole.wire.malformed import MalformedMessage
from knothole.wire.signal import messages as m
from knothole.wire.signal.codec import (
    decode_from_client,
    decode_from_server,
    encode,
    encode_json,
    registration_version,
)
from knothole.wire.signal.content import (
    CallAnswer,
    CallOffer,
    SignedStatement,
    Statement,
    TrickledCandidates,
    decode_body,
    decode_signed_statement,
    decode_statement,
    encode_content,
)
from knothole.wire.signal.values import MAX_MESSAGE_BYTES, MAX_SEALED_BYTES, Audience, AudienceKind


def values(of: inspect.Type) -> st.SearchStrategy[Any]:
    """Every value that the type allows, as far as a test can go."""
    match of:
        case inspect.UnionType():
            return st.one_of([values(each) for each in of.types])
        case inspect.StructType(cls=nat.Random):
            ends = st.tuples(*(values(field.type) for field in of.fields))
            return ends.map(lambda each: nat.Random(min(each), max(each)))
        case inspect.StructType():
            return st.builds(of.cls, **{field.name: values(field.type) for field in of.fields})
        case inspect.Metadata():
            return values(of.type)
        case inspect.BytesType():
            longest = 40 if of.max_length is None else min(of.max_length, 64)
            return st.binary(min_size=of.min_length or 0, max_size=longest)
        case inspect.StrType() if of.pattern is not None:
            return st.from_regex(of.pattern, fullmatch=True).filter(
                lambda text: of.max_length is None or len(text) <= of.max_length
            )
        case inspect.StrType():
            characters = st.characters(exclude_categories=["Cs"])
            return st.text(characters, max_size=min(of.max_length or 40, 40))
        case inspect.IntType():
            low = of.ge if of.ge is not None else -(2**63)
            return st.integers(low, of.le if of.le is not None else (of.lt or 2**63) - 1)
        case inspect.FloatType():
            return st.floats(of.ge, of.le, width=64)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.EnumType():
            return st.sampled_from(list(of.cls))
        case inspect.VarTupleType():
            least, most = of.min_length or 0, min(of.max_length or 4, 4)
            return st.lists(values(of.item_type), min_size=least, max_size=most).map(tuple)
    raise AssertionError(of)


def any_of(kind: Any) -> st.SearchStrategy[Any]:
    return values(inspect.type_info(kind))


CLIENT, SERVER = any_of(m.ClientMessage), any_of(m.ServerMessage)
ONE_EACH = [
    m.Ping(),
    m.Register(1, "bob", b"k" * 32, b"s" * 32, b"g" * 64, b"d" * 16, b"h" * 64),
    m.Early(b"c" * 16, (b"datagram",)),
]


@given(CLIENT)
def test_what_a_client_says_arrives_as_it_was_said(message: Any) -> None:
    assert decode_from_client(encode(message)) == message
    assert decode_from_client(encode_json(message)) == message


@given(SERVER)
def test_what_the_server_says_arrives_as_it_was_said(message: Any) -> None:
    assert decode_from_server(encode(message)) == message
    assert decode_from_server(encode_json(message)) == message


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_bytes_or_text_give_a_message_or_the_one_error(data: bytes | str) -> None:
    for decode in (decode_from_client, decode_from_server):
        try:
            decode(data)
        except MalformedMessage as error:
            assert f"{error}".isprintable()
    registration_version(data)


@given(CLIENT | SERVER, st.data())
def test_damaged_messages_give_a_message_or_the_one_error(message: Any, data: Any) -> None:
    binary = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        binary[data.draw(st.integers(0, len(binary) - 1))] = data.draw(st.integers(0, 255))
    text = list(encode_json(message))
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.characters())
    for damaged in (bytes(binary), bytes(binary[: len(binary) // 2]), "".join(text)):
        for decode in (decode_from_client, decode_from_server):
            with contextlib.suppress(MalformedMessage):
                decode(damaged)


@pytest.mark.parametrize(
    "data",
    [
        b"\x82\xa1t\xa4ping\xa1z" + b"\x91" * 30_000 + b"\xc0",
        '{"t":"ping","z":' + "[" * 30_000 + "]" * 30_000 + "}",
        b"\x82\xa1t\xa5watch\xa5names\xdd\xff\xff\xff\xff",
        b"\x82\xa1t\xa4look\xa4name\xa2\xff\xff",
        '{"t":"look","name":"\\ud800"}',
        '{"t":"look","name":"\ud800"}',
        b"",
        "",
        b"\xc1",
        "null",
    ],
    ids=range(10),
)
def test_bytes_made_to_hurt_give_the_one_error(data: bytes | str) -> None:
    with pytest.raises(MalformedMessage):
        decode_from_client(data)


def test_a_message_longer_than_the_limit_is_not_even_read() -> None:
    with pytest.raises(MalformedMessage, match="at most 65536"):
        decode_from_client(bytes(MAX_MESSAGE_BYTES + 1))


def test_the_largest_messages_fit_the_limit_in_both_encodings() -> None:
    name = "x" * 64
    audience = Audience(AudienceKind.NAMES, (name,) * 400)
    register = msgspec.structs.replace(ONE_EACH[1], disclosure=audience, visible_to=audience)
    call = m.Call(b"c" * 16, name, b"k" * 32, bytes(MAX_SEALED_BYTES))
    early = m.Early(b"c" * 16, (bytes(1500),) * 12)
    watch = m.Watch((name,) * 400)
    for message in (register, call, early, watch):
        assert decode_from_client(encode(message)) == message
        assert decode_from_client(encode_json(message)) == message
    devices = (m.DeviceOnFile(b"d" * 16, ("x" * 256,) * 8),) * 16
    calling = m.Calling(b"c" * 16, devices)
    assert decode_from_server(encode_json(calling)) == calling


@pytest.mark.parametrize(
    "message",
    [
        m.Lookup("Bob"),
        m.Lookup("bob\n"),
        m.Lookup(""),
        m.Lookup("x" * 65),
        m.Lookup("-bob"),
        m.Lookup("b\u00f6b"),
        m.Call(b"short", "bob", b"k" * 32, b"offer"),
        m.Call(b"c" * 16, "bob", b"k" * 31, b"offer"),
        m.Call(b"c" * 16, "bob", b"k" * 32, b""),
        m.Call(b"c" * 16, "bob", b"k" * 32, bytes(MAX_SEALED_BYTES + 1)),
        m.Early(b"c" * 16, ()),
        m.Early(b"c" * 16, (b"x",) * 13),
        m.Early(b"c" * 16, (bytes(1501),)),
        m.HangUp(b"c" * 16, "No Code"),
        m.OnFile(("x" * 257,)),
        m.OnFile(("candidate\x1b[2J",)),
        m.OnFile(("x",) * 33),
        m.Watch(("bob",) * 401),
    ],
    ids=str,
)
def test_sizes_and_shapes_are_checked_at_the_door(message: Any) -> None:
    for data in (encode(message), encode_json(message)):
        with pytest.raises(MalformedMessage):
            decode_from_client(data)


@pytest.mark.parametrize("text", ["\x1b[31mred", "two\nlines", "\x9b31m", "bell\x07"])
def test_texts_that_would_steer_a_terminal_do_not_come_in(text: str) -> None:
    for message in (m.Refused("version", text), m.Problem("rate", text)):
        with pytest.raises(MalformedMessage):
            decode_from_server(encode(message))


def test_a_client_takes_no_client_message_and_the_server_no_server_message() -> None:
    with pytest.raises(MalformedMessage):
        decode_from_server(encode(m.Lookup("bob")))
    with pytest.raises(MalformedMessage):
        decode_from_client(encode(m.Presence("bob", True)))


def test_fields_of_later_versions_are_passed_over() -> None:
    data = msgspec.msgpack.encode({"t": "ping", "number": 5, "colour": "green"})
    assert decode_from_client(data) == m.Ping(5)


def test_the_version_of_a_register_is_read_from_any_later_shape() -> None:
    later = {"t": "reg", "version": 7, "who": {"name": "bob"}}
    assert registration_version(msgspec.msgpack.encode(later)) == 7
    assert registration_version(msgspec.json.encode(later).decode()) == 7
    assert registration_version(encode(m.Ping())) is None
    assert registration_version(b"\xff") is None


def test_tags_are_short_and_different() -> None:
    for kind in (m.ClientMessage, m.ServerMessage):
        tags = [each.__struct_config__.tag for each in kind.__args__]
        assert len(set(tags)) == len(tags) and max(map(len, tags)) <= 9


def test_secrets_do_not_show_in_representations() -> None:
    service = m.TurnService(("turn:h",), "user", "s3cret", "realm", 60)
    assert "s3cret" not in repr(m.Services((service,)))


CONTENT = [Statement, SignedStatement, CallOffer, CallAnswer, TrickledCandidates]


@given(st.sampled_from(CONTENT).flatmap(any_of))
def test_sealed_content_arrives_as_it_was_said(value: Any) -> None:
    data = encode_content(value)
    match value:
        case Statement():
            assert decode_statement(data) == value
        case SignedStatement():
            assert decode_signed_statement(data) == value
        case body:
            assert decode_body(data, type(body)) == value


@pytest.mark.parametrize("last", [39999, 1])
def test_a_pool_of_ports_that_ends_before_it_begins_does_not_come_in(last: int) -> None:
    """Of no ports at all no odds can be told."""
    report = {"ports": {"type": "random", "first": 40000, "last": last}}
    data = msgspec.msgpack.encode({"move": {"type": "terms", "nat": report}})
    with pytest.raises(MalformedMessage):
        decode_body(data, TrickledCandidates)


@given(st.binary(max_size=100), st.sampled_from([CallOffer, CallAnswer, TrickledCandidates]))
def test_any_content_gives_a_value_or_the_one_error(data: bytes, kind: Any) -> None:
    for decode in (decode_statement, decode_signed_statement, lambda d: decode_body(d, kind)):
        with contextlib.suppress(MalformedMessage):
            decode(data)
    with pytest.raises(MalformedMessage, match="at most"):
        decode_statement(bytes(MAX_SEALED_BYTES + 1))
