"""Ways by UDP: which ports lead out, and what comes in unasked or through a hole.

The outside party is any STUN server with a second port (RFC 5780). It answers to where a request
came from and nowhere else, so the audit can be aimed at nobody.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from knothole.io.audit.finding import Finding, Group
from knothole.io.error_queue import keep_errors, next_error
from knothole.io.waiting import readable
from knothole.wire.address import Address
from knothole.wire.icmp import IcmpError
from knothole.wire.stun import (
    TRANSACTION_ID_SIZE,
    ChangeRequest,
    MalformedMessage,
    Message,
    MessageClass,
    Method,
    decode,
    encode,
)

PORTS: Final = {
    53: "DNS",
    123: "NTP",
    443: "HTTP/3",
    500: "IPsec",
    3478: "STUN",
    45678: "a high port",  # ours: one that stands for all those peers may have
}
_TRIES: Final = 3  # ours, as for NAT discovery: what has not come then does not come
_BETWEEN_SECONDS: Final = 0.4
_ANSWER_AGAIN_SECONDS: Final = 1.1  # Linux sends one such ICMP error a second (icmp_ratelimit)


@dataclass(slots=True)
class _Probe:
    socket: socket.socket
    answered: bool = False
    errors: list[IcmpError] = field(default_factory=list)

    @property
    def is_silent(self) -> bool:
        return not self.answered and not self.errors


def udp_ways(server: Address) -> Iterator[Finding]:
    """Every UDP way, by the STUN server at ``server`` and the port above it. Raises OSError."""
    probes = _ask(server, list(dict.fromkeys([*PORTS, server.port])))
    rejects = any(_rejected_there(each, server) for each in probes.values())
    for port, probe in probes.items():
        title = f"UDP port {port} out ({PORTS.get(port, 'the server')})"
        yield Finding(Group.UDP, title, *_verdict(probe, server, port == server.port, rejects))
    yield from _ways_in(server)


def _ask(server: Address, ports: list[int]) -> dict[int, _Probe]:
    """A Binding request to each port, repeated, and what came back to each."""
    family = socket.AF_INET6 if server.is_ipv6 else socket.AF_INET
    with contextlib.ExitStack() as stack:
        probes = {}
        for port in ports:
            udp = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            keep_errors(udp)
            udp.connect((server.host, port))
            udp.setblocking(False)
            probes[port] = _Probe(udp)
        everyone = list(probes.values())
        for _ in range(_TRIES):
            _send(everyone)
            _listen(everyone)
        if any(_rejected_there(each, server) for each in everyone):
            for probe in everyone * 2:  # those whose rejection was one too many at a time
                if probe.is_silent:
                    time.sleep(_ANSWER_AGAIN_SECONDS)
                    _send([probe])
                    _listen([probe])
        return probes


def _send(probes: list[_Probe]) -> None:
    """Ask again those who have not heard anything."""
    for probe in probes:
        if probe.is_silent:
            with contextlib.suppress(OSError):  # an error that came back just now
                probe.socket.send(_binding_request())


def _listen(probes: list[_Probe]) -> None:
    until = time.monotonic() + _BETWEEN_SECONDS
    by_number = {probe.socket.fileno(): probe for probe in probes}
    while ready := readable(by_number, until):
        for number in ready:
            probe = by_number[number]
            while (error := next_error(probe.socket)) is not None:
                probe.errors.append(error)
            with contextlib.suppress(OSError, MalformedMessage):
                decode(probe.socket.recv(2048))
                probe.answered = True


def _rejected_there(probe: _Probe, server: Address) -> bool:
    """Whether the server's own machine has said that nobody has that port."""
    return any(
        error.origin == server.host and error.words == "port unreachable" for error in probe.errors
    )


def _verdict(
    probe: _Probe, server: Address, serves: bool, rejects: bool
) -> tuple[bool | None, str]:
    if probe.answered:
        return True, "the server has answered"
    if _rejected_there(probe, server):
        return True, "the server's machine says that the port is not in use there"
    if probe.errors:
        error = probe.errors[0]
        return False, f"{error.origin} says: {error.words}"
    if serves:
        return False, "no answer, though the server has this port"
    if rejects:
        return False, "no answer, though the server's machine answers at other ports"
    return None, "no answer: closed here, or the server's machine is silent"


def _ways_in(server: Address) -> Iterator[Finding]:
    """From the server's other port: unasked, and after a packet of ours has gone there."""
    other = Address(server.host, server.port + 1)
    family = socket.AF_INET6 if server.is_ipv6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.setblocking(False)
        if not _comes_from(udp, server, server, other_port=False):
            why = "no UDP gets to the server and back"
            yield Finding(Group.UNASKED, "UDP in, unasked", False, why)
            yield Finding(Group.PUNCHING, "UDP hole punching", False, why)
            return
        unasked = _comes_from(udp, server, other, other_port=True)
        serves = _comes_from(udp, other, other, other_port=False)  # this is the punch as well
        if unasked:
            said = f"what the server sent from port {other.port} came in without a hole"
        else:
            said = f"what the server sent from port {other.port} did not come in"
        known = unasked or serves
        silent = f"the server's port {other.port} does not answer: nobody can send from there"
        yield Finding(
            Group.UNASKED, "UDP in, unasked", unasked if known else None, said if known else silent
        )
        if not known:
            yield Finding(Group.PUNCHING, "UDP hole punching", None, silent)
        elif unasked or _comes_from(udp, server, other, other_port=True):
            why = "needs no hole" if unasked else "after a packet of ours to there, it came in"
            yield Finding(Group.PUNCHING, "UDP hole punching", True, why)
        else:
            why = "after a packet of ours to there it did not come in either: the NAT's port varies"
            yield Finding(Group.PUNCHING, "UDP hole punching", False, why)


def _comes_from(udp: socket.socket, asked: Address, expected: Address, *, other_port: bool) -> bool:
    """Whether ``asked``, asked to answer from its other port or not, is heard from ``expected``."""
    request = _binding_request(other_port=other_port)
    for _ in range(_TRIES):
        udp.sendto(request, asked)
        until = time.monotonic() + _BETWEEN_SECONDS
        while readable([udp], until):
            with contextlib.suppress(OSError, MalformedMessage):
                data, source = udp.recvfrom(2048)
                if source[:2] == expected and decode(data).transaction_id == _id_of(request):
                    return True
    return False


def _binding_request(*, other_port: bool = False) -> bytes:
    attributes = (ChangeRequest(change_port=True),) if other_port else ()
    identity = secrets.token_bytes(TRANSACTION_ID_SIZE)
    return encode(Message(MessageClass.REQUEST, Method.BINDING, identity, attributes))


def _id_of(request: bytes) -> bytes:
    return decode(request).transaction_id
