"""The WebSocket to the switchboard: by the first of its ports that lets us through, or a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from knothole.io.proxy import Proxy, open_tunnel
from knothole.io.race import when_done
from knothole.io.tls import ALPN_WEBSOCKET, check_pin, client_context, key_hash
from knothole.wire.signal.codec import MSGPACK_SUBPROTOCOL
from knothole.wire.signal.values import MAX_MESSAGE_BYTES

NEXT_PORT_SECONDS: Final = 0.3  # ours: a port that does not answer so soon gets company
CONNECT_SECONDS: Final = 5.0
HTTPS: Final = 443


class Unreachable(OSError):
    """None of the server's ports let us in; the text says what each of them answered."""


class _Reached(NamedTuple):
    """A WebSocket that is open, and the IP address of the server at its end."""

    connection: ClientConnection
    server_host: str


class SignallingLink:
    """One WebSocket, from :meth:`open` to :meth:`close`; a new one is made for another try."""

    def __init__(self, on_message: Callable[[bytes], None], on_closed: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_closed = on_closed
        self._connection: ClientConnection | None = None
        self._unsent: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self.server_key_hash = b""
        self.server_host = ""

    async def open(
        self, host: str, ports: Sequence[int], pin: bytes | None, proxy: Proxy | None = None
    ) -> None:
        """Connect to one of ``ports``, directly or by ``proxy``: each next way joins in when those
        before are slow.

        Raises Unreachable, and PinMismatch when the server that answers has another key.
        """
        attempts: list[asyncio.Task[_Reached]] = []
        errors: list[str] = []
        waiting = ways(ports, proxy)
        winner: _Reached | None = None
        try:
            while winner is None:
                if waiting:
                    port, by = waiting.pop(0)
                    name = f"port {port}" + (" by the proxy" if by else "")
                    attempts.append(asyncio.create_task(_connect(host, port, pin, by), name=name))
                pending = [task for task in attempts if not task.done()]
                if not pending and not waiting:
                    raise Unreachable("; ".join(errors))
                if pending:
                    done, _ = await asyncio.wait(
                        pending,
                        timeout=NEXT_PORT_SECONDS if waiting else None,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    for task in done:
                        error = task.exception()
                        if error is None:
                            winner = winner or task.result()
                        elif isinstance(error, (OSError, TimeoutError, WebSocketException)):
                            if _is_pin_error(error):
                                raise error
                            errors.append(f"{task.get_name()}: {str(error) or 'no answer'}")
                        else:
                            raise error
        finally:
            await _leave_only(winner, attempts)
        connection, self.server_host = winner
        self._start(connection)

    @property
    def local_host(self) -> str:
        """Our IP address of the connection, "" before there is one."""
        if self._connection is None:
            return ""
        name = self._connection.transport.get_extra_info("sockname")
        return str(name[0]) if name else ""

    def send(self, data: bytes) -> None:
        """Send one binary message, in order."""
        self._unsent.put_nowait(data)

    async def close(self) -> None:
        """Close the WebSocket and wait until it is closed."""
        connection, self._connection = self._connection, None
        try:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if connection is not None:
                with contextlib.suppress(TimeoutError, OSError):
                    async with asyncio.timeout(1.0):
                        while not self._unsent.empty():
                            await connection.send(self._unsent.get_nowait())
                        await connection.close()
        finally:  # whoever does not wait for the farewell leaves no socket either
            if connection is not None:
                connection.transport.abort()

    def _start(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.server_key_hash = key_hash(connection.transport)
        self._tasks = [
            asyncio.create_task(self._read(connection), name="signalling-read"),
            asyncio.create_task(self._write(connection), name="signalling-write"),
        ]

    async def _read(self, connection: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            while True:
                message = await connection.recv(decode=False)
                self._on_message(message)
        self._on_closed()

    async def _write(self, connection: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            while True:
                await connection.send(await self._unsent.get())


def ways(ports: Sequence[int], proxy: Proxy | None) -> list[tuple[int, Proxy | None]]:
    """The ways to a server in the order in which they are tried. Proxies let 443 through more often
    than anything else; one that the environment names comes before the direct way."""
    direct: list[tuple[int, Proxy | None]] = [(port, None) for port in ports]
    if proxy is None:
        return direct
    by_proxy = [(port, proxy) for port in sorted(ports, key=lambda port: port != HTTPS)]
    pairs = zip(by_proxy, direct, strict=True)
    return [way for pair in pairs for way in (pair if proxy.first else pair[::-1])]


async def _address_of(host: str) -> str:
    """The IP address of a server that was reached by a proxy, for its relays; "" if only the proxy
    knows it."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return ""
    return str(found[0][4][0])


class _Connect(connect):
    """A server that sends us elsewhere is not ours: its key is not even known by then."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


async def _connect(host: str, port: int, pin: bytes | None, proxy: Proxy | None) -> _Reached:
    bracketed = f"[{host}]" if ":" in host else host
    async with asyncio.timeout(CONNECT_SECONDS):
        sock = None if proxy is None else await open_tunnel(proxy, host, port)
        connection = await _Connect(
            f"wss://{bracketed}:{port}/",
            ssl=client_context(pinned=pin is not None, alpn=ALPN_WEBSOCKET),
            subprotocols=[Subprotocol(MSGPACK_SUBPROTOCOL)],
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=None,
            ping_interval=None,  # the engine has its own
            user_agent_header=None,
            proxy=None,  # ours: the library would take the environment's, and no other way
            sock=sock,
        )
    try:
        if pin is not None:
            check_pin(connection.transport, pin)
        if proxy is None:
            return _Reached(connection, connection.remote_address[0])
        return _Reached(connection, await _address_of(host))
    except BaseException:
        connection.transport.abort()
        raise


def _is_pin_error(error: BaseException) -> bool:
    import ssl

    return isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)


async def _leave_only(winner: _Reached | None, attempts: list[asyncio.Task[_Reached]]) -> None:
    for task in attempts:
        task.cancel()
    try:
        await asyncio.gather(*attempts, return_exceptions=True)
    except asyncio.CancelledError:
        winner = None  # nobody takes it either
        raise
    finally:
        for task in attempts:
            when_done(
                task, lambda each: None if each is winner else each.connection.transport.abort()
            )
