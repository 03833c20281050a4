"""A network namespace that lives as long as somebody holds it, and no longer.

Namespaces are not given names under /run/netns: they are file descriptors of the lab's process.
The kernel takes them down, with every interface, route and rule in them, when the last process
inside and the last descriptor are gone, so a lab that is killed leaves no network behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from knothole.lab.netns.netlink import NETLINK_NETFILTER, Netlink

_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_OWN_NAMESPACE: Final = "/proc/thread-self/ns/net"
UP_SECONDS: Final = 40.0  # ours: what takes milliseconds, on a machine that does much else

_libc = ctypes.CDLL(None, use_errno=True)


class NamespacesUnavailable(RuntimeError):
    """This machine does not let us make network namespaces; the text says what would help."""


class Namespace:
    """One network namespace, empty but for a loopback interface that is up."""

    def __init__(self, name: str) -> None:
        """Make it. Raises NamespacesUnavailable where the kernel refuses."""
        self.name = name
        home = os.open(_OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.unshare(_CLONE_NEWNET):
                raise NamespacesUnavailable(_refusal(ctypes.get_errno()))
            try:
                self.descriptor = os.open(_OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
                with Netlink() as netlink:
                    netlink.set_link(1, up=True)
            finally:
                _set_namespace(home)
        finally:
            os.close(home)

    @property
    def inode(self) -> int:
        """The number that ``lsns`` and ``/proc/PID/ns/net`` show for it."""
        return os.fstat(self.descriptor).st_ino

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside for the length of the block.

        Sockets and processes made there stay there. Never await inside the block: everything
        else that the thread does would happen in the namespace too.
        """
        home = os.open(_OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _set_namespace(self.descriptor)
            try:
                yield
            finally:
                _set_namespace(home)
        finally:
            os.close(home)

    @contextlib.contextmanager
    def netlink(self) -> Iterator[Netlink]:
        """A rtnetlink socket of this namespace, with the thread inside meanwhile."""
        with self.entered(), Netlink() as netlink:
            yield netlink

    def index(self, interface: str) -> int:
        """The interface's number here. Raises OSError when there is none of that name."""
        with self.entered():
            return socket.if_nametoindex(interface)

    def wait_running(self, interface: str) -> None:
        """Return when the kernel really sends packets by the interface.

        It drops them for some milliseconds after the other end of a cable has come up, until a
        worker of its own has noticed. Raises TimeoutError after UP_SECONDS.
        """
        deadline = time.monotonic() + UP_SECONDS
        with self.netlink() as netlink:
            index = socket.if_nametoindex(interface)
            while not netlink.is_running(index):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{interface} of {self.name} does not come up")
                time.sleep(0.0005)
            # The state is set just before the queue: this waits for the lock held over both.
            netlink.set_link(index, up=True)

    def sysctl(self, settings: Mapping[str, int | str]) -> None:
        """Set kernel parameters such as ``net.ipv4.ip_forward``; absent ones are passed over."""
        with self.entered():
            for key, value in settings.items():
                path = Path("/proc/sys", *key.split("."))
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    path.write_text(f"{value}\n")

    def nft(self, *pieces: str) -> None:
        """Run nftables statements, one to a line, as one transaction.

        Where the kernel gives a user without rights no buffer for so much, each of the pieces
        becomes a transaction. Raises RuntimeError with nft's own words when it refuses.
        """
        refusal = self._run_nft("".join(pieces))
        if "Message too long" in refusal:
            refusal = "".join(self._run_nft(piece) for piece in pieces)
        if refusal:
            raise RuntimeError(f"nft refused the rules of {self.name}: {refusal[:2000]}")

    def _run_nft(self, statements: str) -> str:
        """Empty, or what nft said when it refused."""
        with self.entered():
            try:
                done = subprocess.run(
                    ["nft", "-f", "-"],
                    input=statements,
                    capture_output=True,
                    text=True,
                    check=False,
                )
            except FileNotFoundError:
                raise NamespacesUnavailable(
                    "nft is not installed: apt-get install nftables"
                ) from None
        return done.stderr if done.returncode else ""

    def nft_json(self, command: str) -> str:
        """What ``nft -j COMMAND`` prints."""
        with self.entered():
            return subprocess.run(
                ["nft", "-j", *command.split()], capture_output=True, text=True, check=True
            ).stdout

    def open_tun(self, interface: str) -> int:
        """Make a TUN interface and return its descriptor: whole IP packets, not blocking.

        Raises OSError where /dev/net/tun is missing or closed to us.
        """
        with self.entered():
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                request = struct.pack("16sH22x", interface.encode("ascii"), _IFF_TUN | _IFF_NO_PI)
                fcntl.ioctl(descriptor, _TUNSETIFF, request)
            except OSError:
                os.close(descriptor)
                raise
        return descriptor

    def flush_conntrack(self) -> None:
        """Every connection the kernel tracks here is forgotten, mappings included."""
        with self.entered(), Netlink(NETLINK_NETFILTER) as netlink:
            netlink.flush_conntrack()

    def close(self) -> None:
        """Let go of it. The kernel removes it when no process is left inside."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def make_namespaces_possible() -> None:
    """Return when this process may make namespaces; else become root of a user namespace first.

    A user namespace can only be entered by a process with one thread, so call this early, and the
    machine's own network is out of reach from then on: the way back into its namespace is closed.
    Files written afterwards belong to the user who started the program, as before. Raises
    NamespacesUnavailable, with a text for the user, where neither way is open.
    """
    try:
        Namespace("probe").close()
        return
    except NamespacesUnavailable as refused:
        if os.geteuid() == 0:  # root without rights: as such it may not map itself either
            raise
        refusal = refused
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        if ctypes.get_errno() == errno.EINVAL:
            raise NamespacesUnavailable(
                "a program with several threads cannot enter a user namespace: "
                "start it as `unshare -Urn ...`, or as root"
            )
        raise refusal
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    Namespace("probe").close()


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def _refusal(code: int) -> str:
    return (
        f"network namespaces are not allowed here ({os.strerror(code)}): run as root, "
        "or allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_"
        "unprivileged_userns=0), or in a container give it --privileged"
    )
