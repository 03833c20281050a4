"""The article's odd case: a SYN goes out, and something foreign answers. What comes in?

docs/tcp-odd-case.md has the table that is made here.
"""

from __future__ import annotations

import re
import select
import socket
import time
from pathlib import Path

import pytest

from knothole.lab.netns.topology import Lab
from knothole.wire.address import Address
from knothole.wire.segment import TcpFlag, behind_ipv4, decode_tcp, encode_tcp

pytestmark = pytest.mark.netns

DOCUMENT = Path(__file__).parents[2] / "docs" / "tcp-odd-case.md"
SEQUENCE, WRONG = 1000, 77_000_000
SILENCE_SECONDS = 0.25  # for what does not come
PATIENCE = 40.0  # for what comes

SYN, ACK, RST = TcpFlag.SYN, TcpFlag.ACK, TcpFlag.RST
CASES = {
    "SYN-ACK that confirms the SYN": (SYN | ACK, "bob", 53, SEQUENCE + 1),
    "SYN-ACK with a wrong number": (SYN | ACK, "bob", 53, WRONG),
    "SYN (nothing confirmed)": (SYN, "bob", 53, 0),
    "ACK with a wrong number": (ACK, "bob", 53, WRONG),
    "RST with a wrong number": (RST | ACK, "bob", 53, WRONG),
    "SYN from another port": (SYN, "bob", 54, 0),
    "SYN-ACK from another port": (SYN | ACK, "bob", 54, SEQUENCE + 1),
    "SYN from a stranger": (SYN, "mallory", 53, 0),
}
ROUTERS = {
    "linux": {},
    "firewall": {},
    "linux, liberal": {"net.netfilter.nf_conntrack_tcp_be_liberal": 1},
}


def raw(lab: Lab, host: str) -> socket.socket:
    """Raw TCP in a host whose kernel keeps its own answers to itself."""
    namespace = lab.hosts[host].namespace
    namespace.nft(
        "add table ip quiet\n"
        "add chain ip quiet out { type filter hook output priority 0 ; policy accept ; }\n"
        "add rule ip quiet out tcp flags rst meta mark != 7 drop\n"
    )
    with lab.inside(host):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 7)
    return sock


def send(sock: socket.socket, source: Address, to: Address, flags: TcpFlag, number: int) -> None:
    sequence = SEQUENCE if source.port >= 40_000 else 5000
    segment = encode_tcp(source, to, flags, sequence=sequence, acknowledgment=number)
    sock.sendto(segment, (to.host, 0))


def came_in(sock: socket.socket, port: int, *, expected: bool) -> bool:
    """Whether a segment for ``port`` arrives; what is not expected has a moment."""
    until = time.monotonic() + (PATIENCE if expected else SILENCE_SECONDS)
    while (left := until - time.monotonic()) > 0:
        if not select.select([sock], [], [], left)[0]:
            continue
        if decode_tcp(behind_ipv4(sock.recv(2048))).destination_port == port:
            return True
    return False


def tried(router: str, expected: dict[str, bool]) -> dict[str, bool]:
    with Lab() as lab:
        lab.add_client("alice", nat=router.partition(",")[0])
        for name in ("bob", "mallory"):
            lab.add_server(name)
        lab.router("alice").namespace.sysctl(ROUTERS[router])
        sockets = {name: raw(lab, name) for name in ("alice", "bob", "mallory")}
        inside, outside = lab.hosts["alice"].address, lab.public_address("alice")
        results = {}
        for number, (case, (flags, sender, port, confirmed)) in enumerate(CASES.items()):
            ours = 40_000 + number  # a fresh hole for every case; these routers keep the port
            bob = Address(lab.hosts["bob"].address, 53)
            answering = Address(lab.hosts[sender].address, port)
            send(sockets["alice"], Address(inside, ours), bob, SYN, 0)
            assert came_in(sockets["bob"], 53, expected=True), "the SYN goes out"
            send(sockets[sender], answering, Address(outside, ours), flags, confirmed)
            results[case] = came_in(sockets["alice"], ours, expected=expected.get(case, False))
        for sock in sockets.values():
            sock.close()
    return results


def table(documented: list[str]) -> list[str]:
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in documented]
    columns = {
        router: tried(router, {row[0]: row[at] == "passes" for row in cells if len(row) > at})
        for at, router in enumerate(ROUTERS, 1)
    }
    rows = [f"| after our SYN comes | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for case in CASES:
        verdicts = ("passes" if results[case] else "-" for results in columns.values())
        rows.append(f"| {case} | {' | '.join(verdicts)} |")
    return rows


def test_the_table_is_what_the_kernel_does() -> None:
    documented = re.findall(r"^\|.*\|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert table(documented) == documented
