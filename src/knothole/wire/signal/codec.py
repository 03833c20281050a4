"""Messages to bytes and back: msgpack for peers, JSON for browsers, the same structs."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from knothole.wire.malformed import MalformedMessage
from knothole.wire.signal.messages import ClientMessage, ServerMessage
from knothole.wire.signal.values import MAX_MESSAGE_BYTES

MSGPACK_SUBPROTOCOL: Final = "knothole.msgpack"
JSON_SUBPROTOCOL: Final = "knothole.json"

T = TypeVar("T")


def encode(message: ClientMessage | ServerMessage) -> bytes:
    """The message in msgpack, for a binary WebSocket message."""
    return msgspec.msgpack.encode(message)


def encode_json(message: ClientMessage | ServerMessage) -> str:
    """The message in JSON, for a text WebSocket message; bytes are standard base64."""
    return msgspec.json.encode(message).decode("utf-8")


def decode_from_client(data: bytes | str) -> ClientMessage:
    """One message to the server: ``bytes`` are msgpack, ``str`` is JSON.

    Raises :class:`MalformedMessage` and nothing else, whatever comes in.
    """
    message: ClientMessage = _decode(
        _CLIENT_JSON if isinstance(data, str) else _CLIENT_MSGPACK, data
    )
    return message


def decode_from_server(data: bytes | str) -> ServerMessage:
    """One message to the client; like :func:`decode_from_client`."""
    message: ServerMessage = _decode(
        _SERVER_JSON if isinstance(data, str) else _SERVER_MSGPACK, data
    )
    return message


def registration_version(data: bytes | str) -> int | None:
    """The version that a Register of whatever version names, None when it is no Register.

    Lets a server tell a client of another version what is the matter, although it cannot read
    the rest of the message.
    """
    try:
        return _decode(_VERSION_JSON if isinstance(data, str) else _VERSION_MSGPACK, data).version
    except MalformedMessage:
        return None


class _AnyRegister(msgspec.Struct, frozen=True, tag_field="t", tag="reg"):
    version: int


_CLIENT_MSGPACK: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(ClientMessage)
_CLIENT_JSON: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(ClientMessage)
_SERVER_MSGPACK: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(ServerMessage)
_SERVER_JSON: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(ServerMessage)
_VERSION_MSGPACK: Final = msgspec.msgpack.Decoder(_AnyRegister)
_VERSION_JSON: Final = msgspec.json.Decoder(_AnyRegister)


def _decode(decoder: msgspec.msgpack.Decoder[T] | msgspec.json.Decoder[T], data: bytes | str) -> T:
    if len(data) > MAX_MESSAGE_BYTES:
        raise MalformedMessage(f"a message has at most {MAX_MESSAGE_BYTES} bytes")
    try:
        # A str goes in as bytes, because lone surrogates in it must not raise further in.
        return decoder.decode(data.encode("utf-8") if isinstance(data, str) else data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        # RecursionError: foreign bytes can nest as deep as they are long.
        raise MalformedMessage(f"not a message of this protocol: {_printable(error)}") from error


def _printable(error: Exception) -> str:
    """The error text without what a terminal or a :data:`Text` would not take."""
    text = "".join(character if character.isprintable() else "?" for character in str(error))
    return text[:200]
