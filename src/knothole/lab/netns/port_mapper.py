"""A router that can be asked for port mappings: miniupnpd in its namespace, as on real ones."""

from __future__ import annotations

import enum
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from knothole.lab.netns.namespace import Namespace, NamespacesUnavailable
from knothole.lab.netns.sweep import MARK

_START_SECONDS: Final = 40.0  # ours: what takes milliseconds, on a machine that does much else
_LOOK_SECONDS: Final = 0.01
_PCP_PORT: Final = 5351
_SSDP_PORT: Final = 1900
_PATH: Final = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


class Mapping(enum.Flag):
    """Protocols that a router can be asked by."""

    NONE = 0
    UPNP = enum.auto()
    NAT_PMP = enum.auto()
    PCP = enum.auto()


def mapping_lines(mapping: Mapping) -> list[str]:
    """The tables and chains that miniupnpd writes its rules into, to stand before those that drop.

    PCP and NAT-PMP have one port, and miniupnpd speaks both or neither: which of them gets through
    is told by the first byte, the version.
    """
    if not mapping:
        return []
    lines = [
        "table inet portmapping",
        "delete table inet portmapping",
        "add chain inet filter miniupnpd",
        "add rule inet filter forward jump miniupnpd",
        "add table inet portmapping",
        "add chain inet portmapping arriving "
        "{ type nat hook prerouting priority dstnat ; policy accept ; }",
        "add chain inet portmapping leaving "
        "{ type nat hook postrouting priority srcnat + 1 ; policy accept ; }",
        "add chain inet portmapping dnat_miniupnpd",
        "add chain inet portmapping snat_miniupnpd",
        "add rule inet portmapping arriving jump dnat_miniupnpd",
        "add rule inet portmapping leaving jump snat_miniupnpd",
    ]
    for protocol, version in ((Mapping.NAT_PMP, 0), (Mapping.PCP, 2)):
        if protocol not in mapping:
            lines.append(
                f"add rule inet filter input udp dport {_PCP_PORT} @th,64,8 {version} drop"
            )
    return lines


class PortMapperDaemon:
    """miniupnpd, running until it is closed."""

    def __init__(self, namespace: Namespace, mapping: Mapping, *, lab: str, ipv6: bool) -> None:
        """Raises NamespacesUnavailable when it is not installed or does not start."""
        program = shutil.which("miniupnpd", path=_PATH)
        if program is None:
            raise NamespacesUnavailable(
                "miniupnpd is not installed: apt-get install miniupnpd-nftables"
            )
        self._namespace = namespace
        self._mapping = mapping
        self._lab = lab
        self._folder = tempfile.TemporaryDirectory(prefix="knothole-portmap-")
        folder = Path(self._folder.name)
        self.log = folder / "log"
        (folder / "conf").write_text(_configuration(mapping, ipv6=ipv6))
        pid = str(folder / "pid")
        self._command = [program, "-d", "-f", str(folder / "conf"), "-P", pid]
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start it. Raises NamespacesUnavailable when it does not listen in time."""
        environment = {**os.environ, MARK: self._lab}
        with self.log.open("ab") as log, self._namespace.entered():
            self._process = subprocess.Popen(
                self._command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        port = _SSDP_PORT if self._mapping is Mapping.UPNP else _PCP_PORT
        deadline = time.monotonic() + _START_SECONDS
        while f":{port:04X} " not in self._udp_sockets():
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = self.log.read_text(errors="replace")[-1000:]
                raise NamespacesUnavailable(f"miniupnpd did not start: {words}")
            time.sleep(_LOOK_SECONDS)

    def _udp_sockets(self) -> str:
        with self._namespace.entered():
            return Path("/proc/thread-self/net/udp").read_text()

    def stop(self) -> None:
        """End it as a power failure does: nobody is told."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        self._folder.cleanup()


def _configuration(mapping: Mapping, *, ipv6: bool) -> str:
    has_5351 = bool(mapping & (Mapping.NAT_PMP | Mapping.PCP))
    settings = {
        "ext_ifname": "wan",
        "listening_ip": "lan",
        "port": 0,
        "enable_upnp": _yes(Mapping.UPNP in mapping),
        "enable_natpmp": _yes(has_5351),
        "secure_mode": "yes",  # mappings for oneself only
        "system_uptime": "no",  # or a restart of the program would not show
        "ipv6_disable": _yes(not ipv6),
        "uuid": "00000000-0000-0000-0000-000000000001",
        "upnp_table_name": "filter",
        "upnp_forward_chain": "miniupnpd",
        "upnp_nat_table_name": "portmapping",
        "upnp_nat_chain": "dnat_miniupnpd",
        "upnp_nat_postrouting_chain": "snat_miniupnpd",
    }
    lines = [f"{name}={value}" for name, value in settings.items()]
    rules = ["allow 1024-65535 0.0.0.0/0 1024-65535", "deny 0-65535 0.0.0.0/0 0-65535"]
    return "\n".join([*lines, *rules, ""])


def _yes(value: bool) -> str:
    return "yes" if value else "no"
