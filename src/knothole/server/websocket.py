"""WebSocket (RFC 6455) on an asyncio transport, by the sans-IO half of the websockets library."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

from websockets.exceptions import InvalidState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from knothole.wire.signal.codec import JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL

MAX_MESSAGE: Final = 64 * 1024  # bytes; an offer is about 4 KB: ours
MAX_UNSENT: Final = 256 * 1024  # bytes a client may leave unread before it is let go: ours
HANDSHAKE_SECONDS: Final = 10.0


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
            max_size=MAX_MESSAGE,
            subprotocols=[Subprotocol(MSGPACK_SUBPROTOCOL), Subprotocol(JSON_SUBPROTOCOL)],
            select_subprotocol=_select,
        )
        self._text = False
        self._fragments: list[bytes] = []
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
            self._flush_or_abort()

    def send_text(self, text: str) -> None:
        """Send one text message, likewise."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_text(text.encode())
            self._flush_or_abort()

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Say goodbye and end the connection."""
        if self._transport is None:
            return
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason)
            self._flush()
        self._transport.close()

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has its own kind
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(HANDSHAKE_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        self._process()

    def eof_received(self) -> None:
        self._protocol.receive_eof()
        self._process()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
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
        response = self._protocol.accept(request)
        self._protocol.send_response(response)
        if self._deadline is not None:
            self._deadline.cancel()
        if self._protocol.state is State.OPEN:
            self._open = True
            self._flush()
            self._handler.opened(self)

    def _frame(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
            return
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
        self._fragments.append(bytes(frame.data))
        if sum(map(len, self._fragments)) > MAX_MESSAGE:
            self.close(CloseCode.MESSAGE_TOO_BIG)
        elif frame.fin:
            message = b"".join(self._fragments)
            self._fragments.clear()
            self._handler.message(self, message.decode(errors="replace") if self._text else message)

    def _flush_or_abort(self) -> None:
        self._flush()
        if self._transport is not None and self._transport.get_write_buffer_size() > MAX_UNSENT:
            self._transport.abort()

    def _flush(self) -> None:
        if self._transport is None:
            return
        try:
            pending = self._protocol.data_to_send()
        except InvalidState:
            return
        for data in pending:
            if data:
                self._transport.write(data)
            else:
                self._transport.close()  # the library's sign for "no more will be sent"


def _select(_protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """The first one offered that we speak; a client that offers none speaks msgpack."""
    ours = (MSGPACK_SUBPROTOCOL, JSON_SUBPROTOCOL)
    return next((protocol for protocol in offered if protocol in ours), None)
