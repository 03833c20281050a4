"""WebSocket (RFC 6455) on an asyncio transport, by the sans-IO half of the websockets library."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from knothole.wire.signal.codec import JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL
from knothole.wire.signal.values import MAX_MESSAGE_BYTES

MAX_UNSENT: Final = 256 * 1024  # bytes a client may leave unread before it is let go: ours
HANDSHAKE_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 3.0  # ours: for the client's side of the closing handshake
MAX_REASON_BYTES: Final = 123  # RFC 6455 Section 5.5: a control frame has 125 bytes at most


class Handler(Protocol):
    """Who is told what happens on a connection."""

    def opened(self, connection: WebSocketConnection) -> None: ...
    def message(self, connection: WebSocketConnection, data: bytes | str) -> None: ...
    def closed(self, connection: WebSocketConnection) -> None: ...


class WebSocketConnection(asyncio.Protocol):
    """The server's end of one WebSocket. ``remote`` is the address the client comes from."""

    def __init__(
        self,
        handler: Handler,
        remote: tuple[str, int],
        on_lost: Callable[[WebSocketConnection], None],
    ) -> None:
        self.remote = remote
        self._handler = handler
        self._on_lost = on_lost
        self._protocol = ServerProtocol(
            max_size=MAX_MESSAGE_BYTES,
            subprotocols=[Subprotocol(MSGPACK_SUBPROTOCOL), Subprotocol(JSON_SUBPROTOCOL)],
            select_subprotocol=_select,
        )
        self._text = False
        self._fragments = bytearray()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._open = False

    @property
    def speaks_text(self) -> bool:
        """Whether the client chose JSON in text messages."""
        return self._protocol.subprotocol == JSON_SUBPROTOCOL

    def send(self, data: bytes) -> None:
        """Send one binary message; a client that does not read is let go."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_binary(data)
            self._flush()

    def send_text(self, text: str) -> None:
        """Send one text message, likewise."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_text(text.encode())
            self._flush()

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Say goodbye; the connection ends when the client answers, or does not. Idempotent."""
        if self._transport is None:
            return
        if self._protocol.state is State.OPEN:
            short = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
            self._protocol.send_close(code, short)
            self._flush()
        self._end_within(CLOSE_SECONDS)

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has its own kind
        self._end_within(HANDSHAKE_SECONDS)

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        self._process()

    def eof_received(self) -> None:
        self._protocol.receive_eof()
        self._process()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        self._transport = None
        if self._open:
            self._open = False
            self._handler.closed(self)
        self._on_lost(self)

    def _process(self) -> None:
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._accept(event)
            elif isinstance(event, Frame):
                self._frame(event)
        self._flush()

    def _accept(self, request: Request) -> None:
        self._protocol.send_response(self._protocol.accept(request))
        if self._protocol.state is State.OPEN:
            self._in_time()
            self._open = True
            self._flush()
            self._handler.opened(self)

    def _frame(self, frame: Frame) -> None:
        # The library answers pings, and has seen to it that a whole message is not too big.
        if frame.opcode not in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
            return
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
        self._fragments += frame.data
        if not frame.fin:
            return
        message = bytes(self._fragments)
        self._fragments.clear()
        if not self._text:
            self._handler.message(self, message)
            return
        try:
            text = message.decode()
        except UnicodeDecodeError:
            self.close(CloseCode.INVALID_DATA)
        else:
            self._handler.message(self, text)

    def _flush(self) -> None:
        """Hand what the library wants sent to the transport, unless the client reads too slowly."""
        pending = self._protocol.data_to_send()
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        for data in pending:
            if data:
                transport.write(data)
            else:  # the library's sign for "no more will be sent"
                transport.close()
                self._end_within(CLOSE_SECONDS)
        if transport.get_write_buffer_size() > MAX_UNSENT:
            transport.abort()

    def _end_within(self, seconds: float) -> None:
        self._in_time()
        if self._transport is not None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(seconds, self._transport.abort)

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _select(_protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """The first one offered that we speak; a client that offers none speaks msgpack."""
    ours = (MSGPACK_SUBPROTOCOL, JSON_SUBPROTOCOL)
    return next((protocol for protocol in offered if protocol in ours), None)
