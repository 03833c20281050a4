"""Standing outside for an audit: small packets back to whoever asks over a TCP connection.

Requests are lines of JSON, ``{"send": WHAT, "port": N, "acknowledgment": N}``, answered by
``{"done": BOOL, "why": TEXT}``; before the first one comes ``{"you": "HOST:PORT"}``, the asker as
seen from here. What is sent goes to the address at the other end of that connection, which has
proven by its handshake that it is there, and to nobody else; it is no larger than a request, and
there are few of them.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from knothole.io.raw import raw_tcp
from knothole.wire.address import Address, parse_address
from knothole.wire.segment import TcpFlag

MOST_REQUESTS: Final = 8  # ours: on one connection; an audit needs two on each
MOST_SECONDS: Final = 10.0  # ours: then the next one has its turn
LEAST_PAUSE_SECONDS: Final = 0.1  # ours: between two packets, whoever asks
_LONGEST_LINE: Final = 200


@dataclass(frozen=True, slots=True)
class Assisted:
    """Somebody has asked for a packet, and it was sent or not."""

    asker: Address
    what: str
    port: int
    done: bool


class Assistant:
    """Listens on a TCP port and sends from the one above it."""

    def __init__(self, host: str, port: int) -> None:
        """Raises OSError when the port cannot be had."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._host = host
        self._other_port = port + 1
        self._listener = socket.create_server((host, port), family=family)

    @property
    def address(self) -> Address:
        return _address(self._listener.getsockname())

    def serve(self) -> Iterator[Assisted]:
        """Serve one asker after the other, for ever."""
        with self._listener:
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError, ValueError):
                    yield from self._attend(connection)

    def _attend(self, connection: socket.socket) -> Iterator[Assisted]:
        """Raises OSError, ValueError for a request that makes no sense."""
        asker = _address(connection.getpeername())
        until = time.monotonic() + MOST_SECONDS
        _say(connection, {"you": str(asker)})
        waiting = b""
        with contextlib.ExitStack() as stack:
            for _ in range(MOST_REQUESTS):
                while b"\n" not in waiting:
                    connection.settimeout(max(0.01, until - time.monotonic()))
                    data = connection.recv(_LONGEST_LINE)
                    if not data or len(waiting) > _LONGEST_LINE:
                        return
                    waiting += data
                line, _, waiting = waiting.partition(b"\n")
                what, target, acknowledgment = _request(line, asker)
                time.sleep(LEAST_PAUSE_SECONDS)
                why = self._send(what, target, acknowledgment, stack)
                _say(connection, {"done": not why, "why": why})
                yield Assisted(asker, what, target.port, not why)

    def _send(
        self, what: str, target: Address, acknowledgment: int, stack: contextlib.ExitStack
    ) -> str:
        """Send it; why not, if not."""
        kinds: dict[str, Callable[[], None]] = {
            "syn": lambda: self._segment(target, TcpFlag.SYN, 0),
            "syn-ack": lambda: self._segment(target, TcpFlag.SYN | TcpFlag.ACK, acknowledgment),
            "connection": lambda: self._connect(target, stack),
        }
        if what not in kinds:
            return "that is not known here"
        try:
            kinds[what]()
        except PermissionError:
            return "the assistant is not root"
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def _segment(self, target: Address, flags: TcpFlag, acknowledgment: int) -> None:
        with raw_tcp(self._other_port, target) as port:
            port.send_segment(flags, acknowledgment=acknowledgment)

    def _connect(self, target: Address, stack: contextlib.ExitStack) -> None:
        """Begin to open a connection; it lasts as long as the asker's own."""
        opening = stack.enter_context(socket.socket(self._listener.family, socket.SOCK_STREAM))
        opening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opening.bind((self._host, self._other_port))
        opening.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            opening.connect(target)


def _request(line: bytes, asker: Address) -> tuple[str, Address, int]:
    """What is to be sent, to which port of the asker, confirming what. Raises ValueError."""
    request = json.loads(line)
    if not isinstance(request, dict):
        raise ValueError("no request")
    port, acknowledgment = request.get("port"), request.get("acknowledgment", 0)
    if not isinstance(port, int) or not isinstance(acknowledgment, int):
        raise ValueError("numbers are missing")
    return str(request.get("send")), parse_address(asker.host, port), acknowledgment & 0xFFFFFFFF


def _say(connection: socket.socket, what: dict[str, object]) -> None:
    connection.sendall(json.dumps(what).encode() + b"\n")


def _address(found: tuple[str, int]) -> Address:
    return parse_address(found[0].partition("%")[0], found[1])
