"""``knothole diy``: the article's experiment, by hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Final, TypeVar

from cyclopts import App, Parameter

from knothole.cli.output import Failure, Output, WrongUsage
from knothole.io.audit.assistant import Assistant
from knothole.io.diy import (
    Answered,
    Closed,
    Connected,
    Event,
    Listening,
    PortTaken,
    Received,
    Sent,
    listen_tcp,
    listen_udp,
    punch_tcp,
    punch_udp,
    resolve,
    send_tcp,
    send_udp,
)
from knothole.wire.address import Address
from knothole.wire.icmp import IcmpError
from knothole.wire.segment import TcpFlag

app = App(
    name="diy",
    help="Hole punching by hand: listen on a port, send from one, punch.\n\n"
    "Example: knothole diy listen 14141",
    version_flags=(),
    group_parameters="Options",
)

FIRST_FREE_PORT: Final = 1024  # below it ports are the system's (POSIX)
T = TypeVar("T")


@app.command
def listen(
    port: int,
    /,
    *,
    host: str = "0.0.0.0",  # noqa: S104  to be reached is what it is for
    tcp: bool = False,
    once: bool = False,
    json: bool = False,
) -> int:
    """Listen on PORT and show what comes, and from whom, until Ctrl-C.

    The article's `nc -u -l -p PORT`. Takes datagrams from anybody.

    Example: knothole diy listen 14141

    Parameters
    ----------
    port
        UDP port.
    host
        Listen on this address only; `::` for IPv6.
    tcp
        TCP instead.
    once
        End after the first datagram, or with --tcp the first connection.
    json
        One JSON object per line.
    """
    _check_port(port)
    output = Output(json=json)
    events = listen_tcp(host, port) if tcp else listen_udp(host, port)
    ends = Closed if tcp else Received
    try:
        for event in _with_reasons(events, port):
            _show(output, event)
            if once and isinstance(event, ends):
                break
    except KeyboardInterrupt:
        if sys.stderr.isatty() and not json:
            print(file=sys.stderr)  # the terminal has shown ^C
    return 0


@app.command
def send(
    host: str,
    port: int,
    /,
    *,
    source_port: Annotated[int, Parameter(name="--from", show_default=False)] = 0,
    tcp: bool = False,
    wait: float = 1.0,
    json: bool = False,
) -> int:
    """Send what stdin gives to PORT of HOST, and show what comes back.

    The article's `echo hello | nc -p 53 -u HOST PORT`. Each piece of stdin, a line if it is
    typed, is one datagram. An ICMP error that comes back is shown, and is no failure.

    Example: echo hello | knothole diy send local-fw 14141 --from 53

    Parameters
    ----------
    host
        Name or IP address.
    port
        Where to.
    source_port
        From this port of ours; otherwise the system chooses one.
    tcp
        TCP instead: exit code 1 when no connection comes about within --wait.
    wait
        So many seconds answers are waited for after the end of stdin.
    json
        One JSON object per line.
    """
    remote = _remote(host, port, source_port, wait)
    stdin = sys.stdin.fileno()
    run = send_tcp if tcp else send_udp
    output = Output(json=json)
    for event in _with_reasons(run(source_port, remote, stdin, wait), source_port, remote):
        _show(output, event)
    return 0


@app.command
def punch(
    host: str,
    port: int,
    /,
    *,
    source_port: Annotated[int, Parameter(name="--from")],
    tcp: bool = False,
    hops: int | None = None,
    wait: float = 1.0,
    json: bool = False,
) -> int:
    """Send one packet from a port of ours, even if another program has it, to make a hole.

    The article's `hping2 -c 1 -2 -s 14141 -p 53 HOST`. What comes back is shown: the answer "port
    unreachable" is of no consequence. As root the packet is made by hand; otherwise the port is
    shared with the program that has it, if that program lets us (`knothole diy listen` does).

    Example: knothole diy punch remote 53 --from 14141

    Parameters
    ----------
    host
        Name or IP address of who is to come in.
    port
        The port they will come from.
    source_port
        The port of ours that they will come to.
    tcp
        A SYN instead of a datagram; for root only.
    hops
        Let it pass so many routers only: far enough for the hole, and nobody answers.
    wait
        So many seconds answers are waited for.
    json
        One JSON object per line.
    """
    _check_port(source_port)
    if hops is not None and not 1 <= hops <= 255:
        raise WrongUsage("--hops is 1 to 255.")
    remote = _remote(host, port, source_port, wait)
    run = punch_tcp if tcp else punch_udp
    output = Output(json=json)
    for event in _with_reasons(run(source_port, remote, hops, wait), source_port, remote):
        _show(output, event)
    return 0


@app.command
def assist(port: int, /, *, host: str = "0.0.0.0", json: bool = False) -> int:  # noqa: S104
    """Stand outside for `knothole audit`, on TCP port PORT, and send back packets it asks for.

    They go to the address that asks, over a connection of its own, and to nobody else; a few at a
    time. They come from the port above PORT. Two of three need root. Ctrl-C ends it.

    Example: knothole diy assist 443

    Parameters
    ----------
    host
        Listen on this address only; `::` for IPv6.
    json
        One JSON object per line.
    """
    _check_port(port)
    _check_port(port + 1)
    output = Output(json=json)
    try:
        assistant = Assistant(host, port)
        output.note(
            "listening",
            f"Listening on {assistant.address}. Ctrl-C ends it.",
            local=str(assistant.address),
        )
        for each in _with_reasons(assistant.serve(), port):
            output.result(
                "assisted",
                f"{each.asker.host} asked for a {each.what} to its port {each.port}: "
                f"{'sent' if each.done else 'not sent'}.",
                asker=str(each.asker),
                what=each.what,
                port=each.port,
                done=each.done,
            )
    except OSError as error:
        raise Failure(_failed(error, port, None)) from error
    except KeyboardInterrupt:
        if sys.stderr.isatty() and not json:
            print(file=sys.stderr)  # the terminal has shown ^C
    return 0


def _show(output: Output, event: Event) -> None:
    """One event, for people and for programs."""
    match event:
        case Listening(local):
            output.note("listening", f"Listening on {local}. Ctrl-C ends it.", local=str(local))
        case Received(remote, data):
            text = data.decode(errors="backslashreplace")
            output.result(
                "received",
                f"{remote}: {_line_of(text)}",
                remote=str(remote),
                size=len(data),
                text=text,
                hex=data.hex(),
            )
        case Sent(local, remote, size):
            output.note(
                "sent",
                f"Sent from {local} to {remote}: {_bytes(size)}.",
                local=str(local),
                remote=str(remote),
                size=size,
            )
        case Connected(remote):
            output.note("connected", f"{remote} is connected.", remote=str(remote))
        case Closed(remote):
            output.note("closed", f"{remote} has closed.", remote=str(remote))
        case Answered(remote, segment):
            flags = [flag.name for flag in TcpFlag if flag in segment.flags and flag.name]
            output.result(
                "answer",
                f"{remote} answers {'-'.join(flags)}.",
                remote=str(remote),
                flags=flags,
            )
        case IcmpError():
            output.result(
                "icmp",
                f"{event.origin} says by ICMP: {event.words}. To a hole it is of no consequence.",
                origin=event.origin,
                what=event.words,
                type=event.type,
                code=event.code,
            )


def _line_of(text: str) -> str:
    if not text:
        return "(an empty datagram)"
    return text.removesuffix("\n")


def _bytes(size: int) -> str:
    return "1 byte" if size == 1 else f"{size} bytes"


def _remote(host: str, port: int, source_port: int, wait: float) -> Address:
    _check_port(port)
    if source_port:
        _check_port(source_port)
    if wait < 0:
        raise WrongUsage("--wait is at least 0.")
    if not hasattr(os, "geteuid"):
        raise Failure("This needs Linux, or another Unix.")
    try:
        return resolve(host, port)
    except OSError as error:
        raise Failure(f"{host!r} is not known here: {error.strerror or error}.") from error


def _check_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise WrongUsage(f"{port} is no port: 1 to 65535.")


def _with_reasons(events: Iterator[T], port: int, remote: Address | None = None) -> Iterator[T]:
    """``events``, with what the system refuses as one clear line."""
    try:
        yield from events
    except PortTaken as taken:
        raise Failure(
            f"Another program has UDP port {port} and does not share it. "
            "Run this as root, or listen with `knothole diy listen`."
        ) from taken
    except PermissionError as refused:
        raise Failure(_refused(port)) from refused
    except TimeoutError as late:
        raise Failure(f"No connection to {remote} came about.") from late
    except OSError as error:
        raise Failure(_failed(error, port, remote)) from error


def _refused(port: int) -> str:
    if 0 < port < FIRST_FREE_PORT:
        return (
            f"Ports below {FIRST_FREE_PORT} are the system's: run this as root, or not from {port}."
        )
    return "To make such a packet by hand one must be root: run this as root."


def _failed(error: OSError, port: int, remote: Address | None) -> str:
    import errno

    why: dict[int | None, Callable[[], str]] = {
        errno.EADDRINUSE: lambda: (
            f"Another program has port {port}. "
            "One packet can be sent from it all the same: knothole diy punch."
        ),
        errno.EADDRNOTAVAIL: lambda: "This machine has no such address.",
        errno.ECONNREFUSED: lambda: f"{remote} refuses: nobody listens there.",
        errno.ENETUNREACH: lambda: f"There is no way from here to {remote}.",
    }
    return why.get(error.errno, lambda: f"{error.strerror or error}.")()
