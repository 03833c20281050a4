"""What joins a host or router to the internet: a plain virtual cable, or a line with delay.

Without delay, jitter and loss it is a veth pair with its offloads on, at full speed. With them it
is a pair of TUN interfaces and a process that carries packets between them; where /dev/net/tun is
closed to us, packet sockets on two veth pairs serve the same process.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

from knothole.lab.netns import line
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.namespace import Namespace
from knothole.lab.netns.sweep import MARK

_TRANSMIT_QUEUE: Final = 10_000
_RECEIVE_BUFFER: Final = 16 << 20
_SO_RCVBUFFORCE: Final = 33
_SOL_PACKET: Final = 263
_PACKET_IGNORE_OUTGOING: Final = 23
_ETH_P_ALL: Final = 3
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_STXCSUM: Final = 0x17
_ETHTOOL_STSO: Final = 0x1F
_ETHTOOL_SGSO: Final = 0x24


@dataclass(frozen=True, slots=True)
class End:
    """One end of a cable: an interface name in a namespace, with a fixed MAC."""

    namespace: Namespace
    interface: str
    mac: str


class Cable:
    """A cable between two ends. Packets that are on it when its settings change keep their fate."""

    def __init__(
        self, near: End, far: End, settings: LineSettings, *, lab: str, adjustable: bool = False
    ) -> None:
        """Lay it. ``adjustable`` asks for a line that can be changed later, though ideal now."""
        self.ends = (near, far)
        self.settings = settings
        self.framed = True  # False between TUN interfaces, which have no MACs
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        if settings.is_ideal and not adjustable:
            _lay_veth(near, far)
            return
        try:
            descriptors = [_open_tun(end) for end in self.ends]
        except OSError:
            sockets = _open_packet_sockets(near, far)
            self._start_line([each.fileno() for each in sockets], lab)
            for each in sockets:
                each.close()
        else:
            self.framed = False
            self._start_line(descriptors, lab)
            for descriptor in descriptors:
                os.close(descriptor)

    def wait_ready(self) -> None:
        """Return when packets are carried at their right times: the line process has started."""
        if self._process is not None and not self._ready:
            assert self._process.stdout is not None
            self._process.stdout.readline()
            self._process.stdout.close()
            self._ready = True

    def change(self, settings: LineSettings) -> None:
        """Other delay, jitter and loss from now on.

        Raises RuntimeError for a plain cable: it was laid without ``adjustable``.
        """
        if self._process is None:
            raise RuntimeError("this cable has no line process: ask for adjustable=True")
        assert self._process.stdin is not None
        self._process.stdin.write(settings.to_json().encode() + b"\n")
        self._process.stdin.flush()
        self.settings = settings

    def stop(self) -> None:
        """Ask the line process to end, if there is one."""
        if self._process is not None:
            self.wait_ready()
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def close(self) -> None:
        """Return when the line process has ended. The interfaces go with their namespaces."""
        self.stop()
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _start_line(self, descriptors: list[int], lab: str) -> None:
        first, second = (str(descriptor) for descriptor in descriptors)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", line.__file__),
                *("--ends", first, second, "--settings", self.settings.to_json()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=descriptors,
            start_new_session=True,
            env={MARK: lab},
        )


def _lay_veth(near: End, far: End) -> None:
    with near.namespace.netlink() as netlink:
        netlink.add_veth(
            near.interface,
            near.mac,
            peer=far.interface,
            peer_mac=far.mac,
            peer_namespace=far.namespace.descriptor,
        )
    with far.namespace.netlink() as netlink:
        netlink.set_link(socket.if_nametoindex(far.interface), up=True)


def _open_tun(end: End) -> int:
    descriptor = end.namespace.open_tun(end.interface)
    with end.namespace.netlink() as netlink:
        index = socket.if_nametoindex(end.interface)
        netlink.set_link(index, up=True, transmit_queue=_TRANSMIT_QUEUE)
    return descriptor


def _open_packet_sockets(near: End, far: End) -> list[socket.socket]:
    """Both ends lead into a namespace of the line's own, where packet sockets see every frame."""
    middle = Namespace("line")
    try:
        middle.sysctl({"net.ipv6.conf.default.disable_ipv6": 1})
        sockets = []
        for number, end in enumerate((near, far)):
            _lay_veth(End(middle, f"line{number}", f"02:4b:68:ff:ff:{number:02x}"), end)
            with end.namespace.entered():
                _send_plain_packets(end.interface)
            with middle.entered():
                sockets.append(_packet_socket(f"line{number}"))
        return sockets
    finally:
        middle.close()  # the sockets hold it from now on


def _packet_socket(interface: str) -> socket.socket:
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packets.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    try:
        packets.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:
        packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    packets.setblocking(False)
    packets.bind((interface, _ETH_P_ALL))
    return packets


def _send_plain_packets(interface: str) -> None:
    """Whole checksums and single segments, as on a real wire, for readers of raw frames."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        for command in (_ETHTOOL_STXCSUM, _ETHTOOL_STSO, _ETHTOOL_SGSO):
            value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
            name = interface.encode("ascii")
            request = struct.pack("=16sQ16x", name, ctypes.addressof(value))
            fcntl.ioctl(handle, _SIOCETHTOOL, request)
