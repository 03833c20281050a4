"""Our STUN behind real NATs with the clients and servers of others, both ways: Debian's stun and
stund speak RFC 3489, coturn RFC 5780 and RFC 3489."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import pytest

from knothole.lab.netns.topology import Lab
from knothole.lab.programs import knothole

from .conftest import PATIENCE
from .test_check import serve

pytestmark = [pytest.mark.netns, pytest.mark.interop]

# What RFC 3489 calls it, and what Debian's client says of it.
VERDICTS: Final = {
    "none": ("open internet", "Open"),
    "firewall": ("symmetric UDP firewall", "Firewall"),
    "linux": ("port restricted cone", "Port Dependent Filter, preserves ports"),
    "eim-eif": ("full cone", "Independent Mapping, Independent Filter"),
    "sequential": ("symmetric", "Dependent Mapping"),
}
EI, APD = "endpoint-independent", "address-and-port-dependent"
FACTS: Final = {
    "none": (None, EI),
    "firewall": (None, APD),
    "linux": (EI, APD),
    "eim-eif": (EI, EI),
    "sequential": (APD, APD),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab() as built:
        for name in ("ours", "stund", "coturn"):
            built.add_server(name, addresses=2)
        for box in VERDICTS:
            built.add_client(box, nat=box)
        start_others(built, tmp_path_factory.mktemp("coturn"))
        serve(built, "ours", tmp_path_factory.mktemp("server"))
        for host, program in (("stund", "stund"), ("coturn", "turnserver")):
            if shutil.which(program):
                wait_serving(built, host)
        yield built


def wait_serving(lab: Lab, host: str) -> None:
    """Until a program there has both ports of both addresses."""
    wanted = {
        f"{socket.htonl(int(IPv4Address(address))):08X}:{port:04X}"
        for address in lab.hosts[host].addresses
        for port in (3478, 3479)
    }
    deadline = time.monotonic() + PATIENCE
    while True:
        with lab.inside(host):
            rows = Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]
        if wanted <= {row.split()[1] for row in rows}:
            return
        assert time.monotonic() < deadline, f"{host} does not listen"
        time.sleep(0.02)


def start_others(lab: Lab, folder: Path) -> None:
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first, second = lab.hosts["stund"].addresses
    if shutil.which("stund"):
        lab.popen("stund", ["stund", "-h", first, "-a", second], **quiet)
    if shutil.which("turnserver"):
        command = ["turnserver", "-n", "--no-cli", "--no-tcp", "--no-tls", "--no-dtls"]
        command += ["--log-file=stdout", f"--pidfile={folder}/pid", f"--userdb={folder}/db"]
        command += [f"--listening-ip={host}" for host in lab.hosts["coturn"].addresses]
        lab.popen("coturn", command, cwd=folder, **quiet)


def said(lab: Lab, client: str, command: Sequence[str]) -> str:
    done = lab.run(client, command, capture_output=True, text=True, timeout=60)
    return str(done.stdout + done.stderr)


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("box", VERDICTS)
@pytest.mark.parametrize(("server", "program"), [("stund", "stund"), ("coturn", "turnserver")])
def test_our_classic_verdict_from_their_servers(
    lab: Lab, box: str, server: str, program: str
) -> None:
    needs(program)
    address = lab.hosts[server].address
    told = events(said(lab, box, knothole("stun", "--classic", address, "--json")))
    assert told[-1] == {"event": "verdict", "verdict": VERDICTS[box][0]}


@pytest.mark.parametrize("box", VERDICTS)
def test_our_classic_verdict_from_our_server(lab: Lab, box: str) -> None:
    address = lab.hosts["ours"].address
    told = events(said(lab, box, knothole("stun", "--classic", address, "--json")))
    assert told[-1] == {"event": "verdict", "verdict": VERDICTS[box][0]}


@pytest.mark.parametrize("box", VERDICTS)
def test_debians_stun_client_is_served_by_us(lab: Lab, box: str) -> None:
    needs("stun")
    told = said(lab, box, ["stun", lab.hosts["ours"].address])
    assert VERDICTS[box][1] in told, told


@pytest.mark.parametrize("box", FACTS)
def test_our_facts_from_coturn(lab: Lab, box: str) -> None:
    needs("turnserver")
    told = events(said(lab, box, knothole("stun", lab.hosts["coturn"].address, "--json")))
    rows = {event["row"]: event["value"] for event in told if event["event"] == "row"}
    assert (rows.get("mapping"), rows["filtering"]) == FACTS[box]


@pytest.mark.parametrize("box", FACTS)
def test_coturns_discovery_is_served_by_us(lab: Lab, box: str) -> None:
    needs("turnutils_natdiscovery")
    told = said(lab, box, ["turnutils_natdiscovery", "-m", "-f", lab.hosts["ours"].address])
    mapping, filtering = (
        (each or EI).replace("-", " ").title().replace(" And ", " and ") for each in FACTS[box]
    )
    assert f"NAT with {mapping} Mapping" in told, told
    assert f"NAT with {filtering} Filtering" in told, told
