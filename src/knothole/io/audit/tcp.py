"""Ways in by TCP: simultaneous open, and the article's segments that confirm nothing.

They need an :class:`~knothole.io.audit.assistant.Assistant` outside, because no ordinary server
can send them; and two of them need root on both sides, to make segments by hand and to see them.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
from collections.abc import Iterator
from typing import Final

from knothole.io.audit.finding import Finding, Group
from knothole.io.raw import RawPort, raw_tcp
from knothole.wire.address import Address
from knothole.wire.icmp import IcmpError
from knothole.wire.segment import TcpFlag, TcpSegment

WAIT_SECONDS: Final = 3.0
_SEEN_SECONDS: Final = 1.0
_HOP_SECONDS: Final = 0.5
_MOST_HOPS: Final = 16
_LONGEST_ANSWER: Final = 1000  # ours: bytes; an assistant's have less than 100
_FAR_OFF: Final = 1 << 20  # ours: farther than any window of a fresh connection
_OPEN: Final = "TCP simultaneous open"
_FOREIGN: Final = "TCP, a foreign SYN after one of ours"
_WRONG: Final = "TCP, a SYN-ACK with a wrong number"
_NO_ASSISTANT: Final = "needs an assistant outside: knothole diy assist, then --assistant HOST:PORT"


class _Refused(Exception):
    """The assistant does not do it; the text says why."""


class _Outside:
    """A connection to the assistant from a port of ours, and that port as it is seen outside."""

    def __init__(self, assistant: Address) -> None:
        """Raises OSError."""
        self.target = Address(assistant.host, assistant.port + 1)
        self._control = _reusable(assistant)
        try:
            self._control.settimeout(WAIT_SECONDS)
            self._control.connect(assistant)
            self.port = int(self._control.getsockname()[1])
            self._lines = self._control.makefile("rb")
            self._seen_port = int(str(self._hear()["you"]).rpartition(":")[2])
        except (OSError, KeyError, ValueError) as error:
            self._control.close()
            raise OSError(f"no assistant answers at {assistant}") from error

    def __enter__(self) -> _Outside:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._control.close()

    def ask(self, what: str, acknowledgment: int = 0) -> None:
        """Let it send that to our port. Raises _Refused, OSError."""
        request = {"send": what, "port": self._seen_port, "acknowledgment": acknowledgment}
        self._control.sendall(json.dumps(request).encode() + b"\n")
        answer = self._hear()
        if not answer.get("done"):
            raise _Refused(str(answer.get("why", "")))

    def _hear(self) -> dict[str, object]:
        """Raises OSError for what is no answer of an assistant."""
        try:
            found = json.loads(self._lines.readline(_LONGEST_ANSWER) or b"{}")
        except (ValueError, RecursionError) as error:
            raise OSError("what answers there is no assistant") from error
        return found if isinstance(found, dict) else {}


def tcp_ways(assistant: Address | None) -> Iterator[Finding]:
    """The three ways in by TCP."""
    if assistant is None:
        for name in (_OPEN, _FOREIGN, _WRONG):
            yield Finding(Group.TCP_PUNCHING, name, None, _NO_ASSISTANT)
        return
    try:
        yield Finding(Group.TCP_PUNCHING, _OPEN, *_simultaneous(assistant))
    except (OSError, _Refused) as error:
        yield Finding(Group.TCP_PUNCHING, _OPEN, None, str(error))
    try:
        hops = _hops_before(assistant)
    except PermissionError:
        for name in (_FOREIGN, _WRONG):
            yield Finding(Group.TCP_PUNCHING, name, None, "needs root here as well")
        return
    for name, try_it in ((_FOREIGN, _foreign_syn), (_WRONG, _wrong_numbers)):
        if not hops:
            why = "no router on the way answers, so no SYN can be sent that reaches nobody"
            yield Finding(Group.TCP_PUNCHING, name, None, why)
            continue
        try:
            yield Finding(Group.TCP_PUNCHING, name, *try_it(assistant, hops))
        except (OSError, _Refused) as error:
            yield Finding(Group.TCP_PUNCHING, name, None, str(error))


def _simultaneous(assistant: Address) -> tuple[bool | None, str]:
    with _Outside(assistant) as outside, _reusable(outside.target) as tcp:
        tcp.bind(("::" if assistant.is_ipv6 else "0.0.0.0", outside.port))  # noqa: S104
        outside.ask("connection")
        tcp.settimeout(WAIT_SECONDS)
        try:
            tcp.connect(outside.target)
        except ConnectionRefusedError:
            return None, "refused: their SYN came in and this computer, or a firewall, has reset it"
        except OSError as error:
            return False, (error.strerror or str(error)).lower()
    return True, "both ends opened at once, and were connected"


def _foreign_syn(assistant: Address, hops: int) -> tuple[bool, str]:
    came_in = _comes_in(assistant, hops, TcpFlag.SYN, 0)
    return came_in, "it came in" if came_in else "it did not come in"


def _wrong_numbers(assistant: Address, hops: int) -> tuple[bool, str]:
    """What is confirmed lies before all that was ever sent, and then beyond it."""
    both = TcpFlag.SYN | TcpFlag.ACK
    less, more = (_comes_in(assistant, hops, both, by) for by in (-_FAR_OFF, _FAR_OFF))
    if less and more:
        return True, "it came in, whichever number it confirmed"
    if less or more:
        return True, f"it came in when it confirmed {'less' if less else 'more'} than was sent"
    return False, "it did not come in"


def _comes_in(assistant: Address, hops: int, flags: TcpFlag, wrong_by: int) -> bool:
    """Whether such a segment comes in after a SYN of ours that has reached nobody."""
    sequence = secrets.randbits(32)
    with _Outside(assistant) as outside, raw_tcp(outside.port, outside.target) as port:
        port.set_hops(hops)
        port.send_segment(TcpFlag.SYN, sequence=sequence)
        outside.ask("syn" if flags is TcpFlag.SYN else "syn-ack", sequence + 1 + wrong_by)
        return any(
            isinstance(each, TcpSegment) and each.flags == flags
            for each in port.answers(_SEEN_SECONDS)
        )


def _hops_before(assistant: Address) -> int:
    """How many routers a packet may pass without reaching the assistant. 0: nobody says.

    Raises PermissionError.
    """
    with contextlib.closing(_reusable(assistant)) as asked:
        asked.bind(("::" if assistant.is_ipv6 else "0.0.0.0", 0))  # noqa: S104
        free = int(asked.getsockname()[1])
        with raw_tcp(free, Address(assistant.host, assistant.port + 1)) as port:
            for hops in range(1, _MOST_HOPS + 1):
                port.set_hops(hops)
                port.send_segment(TcpFlag.SYN)
                if not _is_exceeded(port):
                    return hops - 1
    return _MOST_HOPS


def _is_exceeded(port: RawPort) -> bool:
    return any(
        isinstance(each, IcmpError) and "exceeded" in each.words
        for each in port.answers(_HOP_SECONDS)
    )


def _reusable(remote: Address) -> socket.socket:
    tcp = socket.socket(socket.AF_INET6 if remote.is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    for option in ("SO_REUSEADDR", "SO_REUSEPORT"):
        if hasattr(socket, option):
            tcp.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
    return tcp
