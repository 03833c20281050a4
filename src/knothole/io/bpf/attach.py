"""Attaching the program where packets come in: by a tcx link, else as a classifier of clsact."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from knothole.io.bpf import calls
from knothole.io.rtnetlink import RouteNetlink

_PRIORITY: Final = 0x6B6E  # ours, "kn": among classifiers of other programs
_NAME: Final = "knothole"
# How kernels before 6.6 and systems that forbid it say that there are no tcx links.
_NO_LINKS: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})


class Attachments:
    """Where one program is attached. ``handle`` tells its classifiers from those of another server
    on this machine: the port number that it serves."""

    def __init__(
        self, program: int, netlink: RouteNetlink, handle: int, *, links: bool = True
    ) -> None:
        """``links``: whether to try tcx links first; they are gone when the process dies."""
        self._program, self._netlink, self._handle = program, netlink, handle
        self._links = links
        self._attached: dict[int, int | None] = {}  # interface: link, None for a classifier

    @property
    def interfaces(self) -> frozenset[int]:
        return frozenset(self._attached)

    def attach(self, interface: int) -> None:
        """Raises OSError when the kernel refuses, both ways."""
        if interface in self._attached:
            return
        if self._links:
            try:
                self._attached[interface] = calls.attach_ingress(self._program, interface)
                return
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._links = False
        self._netlink.add_clsact(interface)
        self.clean(interface)
        self._netlink.add_ingress_filter(
            interface, self._program, _NAME, priority=_PRIORITY, handle=self._handle
        )
        self._attached[interface] = None

    def detach(self, interface: int) -> None:
        """No harm when it is not attached, or the interface is gone."""
        if interface not in self._attached:
            return
        link = self._attached.pop(interface)
        if link is None:
            self.clean(interface)
        else:
            os.close(link)

    def clean(self, interface: int) -> None:
        """Remove the classifier that a server which was killed has left, if there is one."""
        with contextlib.suppress(OSError):
            self._netlink.delete_ingress_filter(interface, priority=_PRIORITY, handle=self._handle)

    def close(self) -> None:
        for interface in tuple(self._attached):
            self.detach(interface)
