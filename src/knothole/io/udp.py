"""UDP sockets that send and receive bursts.

:func:`open_udp` gives one; it reads through the event loop's ``add_reader`` where there is one
(3 us a datagram; an asyncio datagram endpoint takes 21 us), and through an endpoint on Windows.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias, cast

from knothole.engine.core import Datagram
from knothole.io.dont_fragment import clear_df, send_unfragmented
from knothole.io.error_queue import PeerError, keep_errors, peer_errors
from knothole.io.gather import Received, Source, gather
from knothole.io.offload import make_offload
from knothole.io.udp_bind import bind_socket
from knothole.wire.address import Address, parse_address

Receiver: TypeAlias = Callable[[Sequence[Datagram]], None]
"""Called with what one turn of the event loop brought, never with nothing.

A burst (``segment_size`` above 0) holds only datagrams that begin with a byte of 64 or more: QUIC
or ChannelData. All others come singly.
"""

READS_A_TURN: Final = 64  # ours: then others get their turn
# Ours: what waits while the kernel takes no more. About 20 ms at 1 Gbit/s; more would only be late.
QUEUE_BYTES: Final = 4 * 1024 * 1024

# The kernel's "not now": its buffer is full, or the device's (Linux, BSD), or memory is short.
_TRY_LATER: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM})
# The kernel's "not so": the path's MTU, the device or the protocol takes no burst of this shape.
_NO_BURST: Final = frozenset({errno.EMSGSIZE, errno.EIO, errno.EINVAL, errno.EOPNOTSUPP})
_REFUSED_BURSTS_BEFORE_GIVING_UP: Final = 8
_CACHED_SOURCES: Final = 1024


class UdpLink(Protocol):
    """What :func:`open_udp` gives."""

    @property
    def address(self) -> Address:
        """The base: where this socket is bound, port included."""

    @property
    def is_blocked(self) -> bool:
        """The kernel takes no more for now; :meth:`send` queues, and drops when that is full."""

    def send(self, datagram: Datagram) -> None:
        """Send a datagram or a burst to ``datagram.destination``. What cannot be sent is lost."""

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when the link is blocked no more."""

    def close(self) -> None:
        """Stop at once; what is queued is dropped. Idempotent."""


async def open_udp(address: Address, receiver: Receiver, *, offload: bool = True) -> UdpLink:
    """Bind ``address`` (port 0: any) and hand what comes to ``receiver``.

    ``offload`` permits UDP_SEGMENT and UDP_GRO where the system has them; KNOTHOLE_OFFLOAD=off in
    the environment forbids them. Raises OSError when the address cannot be bound.
    """
    offload = offload and os.environ.get("KNOTHOLE_OFFLOAD") != "off"
    sock = bind_socket(address)
    try:
        return UdpSocket(sock, receiver, offload=offload)
    except NotImplementedError:  # no add_reader: the proactor loop of Windows
        return await EndpointUdp.open(sock, receiver)


class UdpSocket:
    """A :class:`UdpLink` over a bare socket and the loop's ``add_reader``."""

    def __init__(
        self,
        sock: socket.socket,
        receiver: Receiver,
        *,
        offload: bool = True,
        coalesce: bool = True,
        on_error: Callable[[PeerError], object] | None = None,
    ) -> None:
        """Takes over ``sock`` (from :func:`bind_socket`), within a running event loop.

        With ``coalesce``, bursts may come as one from the start; else see :meth:`make_offload`.
        ``on_error`` gets what the network says of datagrams that were sent, where the system keeps
        it; no other datagram than those of :meth:`send_unfragmented` has the DF bit then.
        """
        self._on_error = on_error
        if on_error is not None:
            keep_errors(sock)
            clear_df(sock)
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._receiver = receiver
        self._offload = make_offload(sock, offload, coalesce=coalesce)
        self._refused_bursts = 0
        self._address = _named(sock.getsockname())
        self._queue: deque[Datagram] = deque()
        self._queued_bytes = 0
        self._waiting: list[Callable[[], None]] = []
        self._sources: dict[Source, Address] = {}
        self._closed = False
        self._watch(True)

    @property
    def address(self) -> Address:
        return self._address

    @property
    def is_blocked(self) -> bool:
        return bool(self._queue)

    def send(self, datagram: Datagram) -> None:
        if self._closed:
            return
        rest = datagram if self._queue else self._send_now(datagram)
        if rest is None or self._queued_bytes + len(rest.payload) > QUEUE_BYTES:
            return
        if not self._queue:
            self._loop.add_writer(self._sock, self._writable)
        self._queue.append(rest)
        self._queued_bytes += len(rest.payload)

    def send_unfragmented(self, datagram: Datagram) -> None:
        """Send one with the DF bit set, where there is one. Lost when it cannot go at once."""
        if not self._closed and not self._queue:
            with contextlib.suppress(OSError):
                send_unfragmented(self._sock, datagram.payload, datagram.destination)

    def when_writable(self, callback: Callable[[], None]) -> None:
        if self._queue:
            self._waiting.append(callback)
        elif not self._closed:
            self._loop.call_soon(callback)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._watch(False)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self._queue.clear()
        self._waiting.clear()

    # ------------------------------------------------------------------------------ receiving

    def _watch(self, wanted: bool) -> None:
        """Have :meth:`_readable` called when something has come, or not any more."""
        if wanted:
            self._loop.add_reader(self._sock, self._readable)
        else:
            self._loop.remove_reader(self._sock)

    def _readable(self) -> None:
        received: list[Received] = []
        receive, sock = self._offload.receive, self._sock
        for _ in range(READS_A_TURN):
            try:
                received.append(receive(sock))
            except BlockingIOError:
                if not received:
                    self._take_errors()
                break
            except OSError:
                # An ICMP error about something sent earlier (ECONNREFUSED; WinError 10054). Which
                # datagram it was only kept errors tell; reading it has cleared it.
                self._take_errors()
                continue
        if received:
            self._deliver(received)

    def _take_errors(self) -> None:
        """Also when nothing came: a socket is readable until the errors it keeps are taken."""
        if self._on_error is not None:
            for error in peer_errors(self._sock, READS_A_TURN):
                self._on_error(error)

    def _deliver(self, received: list[Received]) -> None:
        here = self._address
        self._receiver(
            [
                Datagram(self._source(source), here, payload, segment_size)
                for payload, segment_size, source in gather(received)
            ]
        )

    def _source(self, raw: Source) -> Address:
        address = self._sources.get(raw)
        if address is None:
            if len(self._sources) >= _CACHED_SOURCES:
                self._sources.clear()
            address = self._sources[raw] = self._parse_source(raw)
        return address

    def _parse_source(self, raw: Source) -> Address:
        """The address that ``raw`` is, as :meth:`_deliver` got it."""
        assert isinstance(raw, tuple)
        return _named(raw)

    # -------------------------------------------------------------------------------- sending

    def _send_now(self, datagram: Datagram) -> Datagram | None:
        """Give it to the kernel; what the kernel does not take now comes back."""
        payload, size = datagram.payload, datagram.segment_size
        destination = datagram.destination
        if not size or len(payload) <= size:
            return None if self._send_single(payload, destination) else datagram
        if self._offload.can_segment:
            try:
                self._offload.send_burst(self._sock, payload, size, destination)
                return None
            except OSError as error:
                if error.errno in _TRY_LATER:
                    return datagram
                if error.errno not in _NO_BURST:
                    return None  # refused or unreachable: lost, as UDP may lose anything
                self._burst_refused()
        view = memoryview(payload)
        for start in range(0, len(payload), size):
            if not self._send_single(view[start : start + size], destination):
                return datagram._replace(payload=payload[start:])
        return None

    def _send_single(self, payload: bytes | memoryview, destination: Address) -> bool:
        """False for "not now"; a datagram that is refused, too large or unroutable is lost."""
        try:
            self._sock.sendto(payload, destination)
        except OSError as error:
            return error.errno not in _TRY_LATER
        return True

    def _burst_refused(self) -> None:
        """Once may be one narrow path; again and again it is the device."""
        self._refused_bursts += 1
        if self._refused_bursts >= _REFUSED_BURSTS_BEFORE_GIVING_UP:
            self._offload.can_segment = False

    def _writable(self) -> None:
        while self._queue:
            datagram = self._queue.popleft()
            self._queued_bytes -= len(datagram.payload)
            rest = self._send_now(datagram)
            if rest is not None:
                self._queue.appendleft(rest)
                self._queued_bytes += len(rest.payload)
                return
        self._loop.remove_writer(self._sock)
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()


class EndpointUdp(asyncio.DatagramProtocol):
    """A :class:`UdpLink` over asyncio's datagram endpoint, for loops without ``add_reader``."""

    def __init__(self, address: Address, receiver: Receiver) -> None:
        """Not called directly: :meth:`open` makes links."""
        self._address = address
        self._receiver = receiver
        self._transport: asyncio.DatagramTransport | None = None
        self._blocked = False
        self._waiting: list[Callable[[], None]] = []

    @classmethod
    async def open(cls, sock: socket.socket, receiver: Receiver) -> EndpointUdp:
        """Takes over ``sock`` (from :func:`bind_socket`)."""
        link = cls(parse_address(*sock.getsockname()[:2]), receiver)
        try:
            await asyncio.get_running_loop().create_datagram_endpoint(lambda: link, sock=sock)
        except BaseException:
            sock.close()
            raise
        return link

    @property
    def address(self) -> Address:
        return self._address

    @property
    def is_blocked(self) -> bool:
        return self._blocked

    def send(self, datagram: Datagram) -> None:
        transport = self._transport
        if transport is None or self._blocked:
            return
        for segment in datagram.segments():
            transport.sendto(segment, datagram.destination)

    def when_writable(self, callback: Callable[[], None]) -> None:
        if self._blocked:
            self._waiting.append(callback)
        else:
            asyncio.get_running_loop().call_soon(callback)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
            self._waiting.clear()

    # ------------------------------------------------------------------- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        set_limits = getattr(transport, "set_write_buffer_limits", None)
        if set_limits is not None:  # asyncio has it, its type stubs for datagrams have not
            set_limits(high=QUEUE_BYTES)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._receiver([Datagram(parse_address(addr[0], addr[1]), self._address, data)])

    def error_received(self, exc: Exception) -> None:
        """An ICMP error about something sent earlier (WinError 10054): nothing to be done."""

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()


def _named(raw: tuple[str, int]) -> Address:
    """The address that a socket names; of IPv4 it is canonical as it is, and there is no scope."""
    return parse_address(raw[0], raw[1]) if ":" in raw[0] else Address(raw[0], raw[1])
