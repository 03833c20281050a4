"""Packets seen at interfaces of a lab, with the time at which the kernel saw them."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable
from typing import Final

from knothole.lab.netns.journey import Journey, Points, follow
from knothole.lab.netns.namespace import Namespace
from knothole.lab.netns.packet import Packet, Sighting, decode_packets

SO_TIMESTAMPNS: Final = 35
_SO_RCVBUFFORCE: Final = 33
_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_PACKET_VNET_HDR: Final = 15
_ARPHRD_ETHER: Final = 1
_BUFFER: Final = 8 << 20
_VNET_HEADER: Final = 10
_LARGEST: Final = 66_000


class Capture:
    """Captures from the moment it is made until it is stopped; use it as ``with``.

    What the interfaces carry meanwhile is kept in memory, so this is for calls, not for bulk.
    """

    def __init__(self, interfaces: Iterable[tuple[str, Namespace, str]], points: Points) -> None:
        """``interfaces`` are (name of the place, its namespace, interface)."""
        self.points = points
        # Packet timestamps are wall clock; a call is too short for the two clocks to drift apart.
        self._to_monotonic = time.monotonic() - time.time()
        self.stopped_at: float | None = None
        self._packets: list[Packet] = []
        self._sockets: dict[int, tuple[socket.socket, str, str]] = {}
        for place, namespace, interface in interfaces:
            with namespace.entered():
                sniffer = _sniffer(interface)
            self._sockets[sniffer.fileno()] = (sniffer, place, interface)
        self._stop, self._stopper = os.pipe()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def packets(self) -> list[Packet]:
        """What has been seen so far, in order of time."""
        return sorted(self._packets, key=lambda packet: packet.seconds)

    def packets_from(self, position: int) -> list[Packet]:
        """Those seen so far but for the first ``position``, as they were read from interfaces."""
        return self._packets[position:]

    def stop(self) -> list[Packet]:
        """Read what is left, end, and return all :meth:`packets`."""
        if self._thread.is_alive():
            os.write(self._stopper, b"x")
            self._thread.join()
            for sniffer, _, _ in self._sockets.values():
                sniffer.close()
            os.close(self._stop)
            os.close(self._stopper)
            self.stopped_at = time.monotonic()
        return self.packets()

    def journeys(self) -> list[Journey]:
        """The way of each packet, see :func:`knothole.lab.netns.journey.follow`."""
        return follow(self._packets, self.points, self.stopped_at or time.monotonic())

    def _run(self) -> None:
        poll = select.poll()
        for descriptor in (*self._sockets, self._stop):
            poll.register(descriptor, select.POLLIN)
        stopped = False
        while not stopped:
            ready = [descriptor for descriptor, _ in poll.poll()]
            stopped = self._stop in ready
            for descriptor in self._sockets if stopped else ready:
                while self._read(descriptor):
                    pass

    def _read(self, descriptor: int) -> bool:
        sniffer, place, interface = self._sockets[descriptor]
        try:
            data, extras, _, address = sniffer.recvmsg(_LARGEST, 64)
        except BlockingIOError:
            return False
        except OSError:  # the interface went down
            return False
        seconds, nanoseconds = struct.unpack("=qq", extras[0][2]) if extras else (time.time(), 0)
        seen = Sighting(
            seconds + nanoseconds * 1e-9 + self._to_monotonic,
            place,
            interface,
            address[2] == socket.PACKET_OUTGOING,
        )
        segmented, _, segment_size = struct.unpack_from("=xBHH", data)
        link_header = 14 if address[3] == _ARPHRD_ETHER else 0
        packet = data[_VNET_HEADER + link_header :]
        self._packets += decode_packets(packet, seen, segment_size if segmented else 0)
        return True


def _sniffer(interface: str) -> socket.socket:
    """A socket that sees every frame, both ways, and says how a burst is to be cut."""
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sniffer.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    sniffer.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    try:
        sniffer.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    except PermissionError:
        sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    sniffer.setblocking(False)
    sniffer.bind((interface, _ETH_P_ALL))
    return sniffer
