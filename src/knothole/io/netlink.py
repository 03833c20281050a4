"""Word from a Linux kernel that addresses, links or routes came or went (rtnetlink(7))."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

# <linux/rtnetlink.h>: the multicast groups of links, of addresses and of routes.
_LINK: Final = 0x1
_IPV4_ADDRESSES: Final = 0x10
_IPV6_ADDRESSES: Final = 0x100
_ROUTES: Final = 0x40 | 0x400  # of IPv4 and of IPv6

_LARGEST: Final = 65536


class AddressEvents:
    """Calls ``changed`` soon after the kernel told of a change, once for those told together.

    What has changed it does not say: who is called looks for itself.
    """

    def __init__(self, changed: Callable[[], None], *, routes: bool = False) -> None:
        """``routes``: changes of routes count, too.

        Raises OSError, or AttributeError elsewhere than on Linux, where there is no such word;
        NotImplementedError where the event loop cannot wait for it.
        """
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        try:
            groups = _LINK | _IPV4_ADDRESSES | _IPV6_ADDRESSES | (_ROUTES if routes else 0)
            self._socket.bind((0, groups))
            self._loop.add_reader(self._socket.fileno(), self._read)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    self._socket.recv(_LARGEST)
                except BlockingIOError:
                    raise
                except OSError:  # ENOBUFS: more happened than was kept, which is a change too
                    break
        self._changed()
