"""recvmmsg and sendmmsg of the C library: many datagrams in one system call (Linux).

Python has neither. ctypes gives up the interpreter's lock for the time of a call, as the socket
module does.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from ipaddress import IPv6Address
from typing import Any, Final

from knothole.wire.address import Address

HAS_MMSG: Final = sys.platform == "linux" and struct.calcsize("P") == 8
"""Whether there are such calls, with structures laid out as :data:`HEADER_SIZE` says."""


class IoVector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class MessageHeader(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(IoVector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class ManyHeader(ctypes.Structure):
    """struct mmsghdr: a message, and how many bytes of it came or went."""

    _fields_ = (("header", MessageHeader), ("length", ctypes.c_uint32))


HEADER_SIZE: Final = ctypes.sizeof(ManyHeader)
NAME_SIZE: Final = 28
"""Of the larger one of struct sockaddr_in and sockaddr_in6."""

_FAMILY: Final = struct.Struct("=H")
_IPV4: Final = struct.Struct("!H4s8x")
_IPV6: Final = struct.Struct("!H4x16s")
_SCOPE: Final = struct.Struct("=I")
_libc: Final[Any] = ctypes.CDLL(None, use_errno=True) if HAS_MMSG else None


def recvmmsg(descriptor: int, headers: object, count: int) -> int:
    """How many messages were there, at most ``count``; ``headers`` is a pointer. Does not wait.

    Raises OSError.
    """
    came = int(_libc.recvmmsg(descriptor, headers, count, socket.MSG_DONTWAIT, None))
    if came < 0:
        raise _last_error()
    return came


def sendmmsg(descriptor: int, headers: object, count: int) -> int:
    """How many of the messages the kernel took: at least the first one. Does not wait.

    Raises OSError for the first one.
    """
    went = int(_libc.sendmmsg(descriptor, headers, count, socket.MSG_DONTWAIT))
    if went < 0:
        raise _last_error()
    return went


def name_of(address: Address) -> bytes:
    """``address`` as the kernel writes it: struct sockaddr_in, or sockaddr_in6 with no scope."""
    port, packed = address.port, address.ip.packed
    if address.is_ipv6:
        return _FAMILY.pack(socket.AF_INET6) + _IPV6.pack(port, packed) + _SCOPE.pack(0)
    return _FAMILY.pack(socket.AF_INET) + _IPV4.pack(port, packed)


def address_of(name: bytes) -> Address:
    """What ``name`` says, with the scope of a link-local one as the socket module writes it."""
    if _FAMILY.unpack_from(name)[0] != socket.AF_INET6:
        port, packed = _IPV4.unpack_from(name, _FAMILY.size)
        return Address(socket.inet_ntoa(packed), port)  # the canonical text, in a tenth of the time
    port, packed = _IPV6.unpack_from(name, _FAMILY.size)
    host = str(IPv6Address(packed))
    scope = _SCOPE.unpack_from(name, NAME_SIZE - _SCOPE.size)[0]
    return Address(f"{host}%{_interface(scope)}" if scope else host, port)


def _interface(scope: int) -> str:
    try:
        return socket.if_indextoname(scope)
    except OSError:  # it is gone since the datagram came
        return str(scope)


def pointer_to(memory: bytearray) -> int:
    """Where ``memory`` lies; it can have no other length from now on."""
    return ctypes.addressof((ctypes.c_char * len(memory)).from_buffer(memory))


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
