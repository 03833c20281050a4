"""What the server says of its ports, with clients on other machines (namespaces)."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("namespaces are Linux's", allow_module_level=True)

from knothole.lab.netns.namespace import NamespacesUnavailable, make_namespaces_possible
from knothole.lab.netns.topology import Lab

pytestmark = pytest.mark.netns

CLIENT = """
import asyncio, sys
import knothole
from knothole.peer.profile import Profile
from knothole.wire.server_url import parse_server_url

async def main():
    url, folder, name = sys.argv[1:]
    profile = Profile.create(folder, name, parse_server_url(url))
    async with knothole.Peer(profile) as peer:
        while "relay" not in {c.candidate.kind.value for c in peer.endpoint.gatherer.candidates}:
            await asyncio.sleep(0.02)
        print("online", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    try:
        make_namespaces_possible()
    except NamespacesUnavailable as refused:
        pytest.skip(str(refused))


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as built:
        yield built


@pytest.fixture
def client(lab: Lab, tmp_path: Path) -> Iterator[object]:
    """Start a peer inside a host of the lab; it is registered when this returns."""
    with contextlib.ExitStack() as stack:

        def start(host: str, url: str) -> None:
            process = lab.popen(
                host,
                [sys.executable, "-c", CLIENT, url, str(tmp_path / host), host],
                stdout=subprocess.PIPE,
            )
            stack.callback(process.stdout.close)
            stack.callback(process.wait, 40)
            stack.callback(process.kill)
            assert process.stdout.readline() == b"online\n"

        yield start


def serve_in(lab: Lab, serve, host: str = "server", *blocked: str):
    """Start a server in a host behind a firewall that drops what ``blocked`` names."""
    rules = [
        "table inet firewall {",
        "chain input { type filter hook input priority 0; policy accept;",
        *(f"{each} drop" for each in blocked),
        "}",
        "}",
    ]
    lab.run(host, ["nft", "-f", "-"], input="\n".join(rules), text=True, check=True)
    return serve(
        *("--data", host), host="", popen=lambda *a, **options: lab.popen(host, *a, **options)
    ).ready()


def test_open_ports_are_seen_to_be_open_by_the_first_client(lab, client, serve) -> None:
    lab.add_server("server", addresses=2)
    lab.add_client("alice", nat="linux")
    server = serve_in(lab, serve)
    client("alice", server.url)
    server.expect("udp 3478: reached from outside")
    server.expect("udp 3479: reached from outside")
    server.expect("udp 49152-65535: reached from outside")
    assert not any("open in the firewall?" in line for line in server.lines)


def test_what_nothing_comes_in_by_is_named_after_a_while(lab, client, serve) -> None:
    lab.add_server("shut")
    lab.add_server("narrow")
    for name in ("alice", "bob", "carol"):
        lab.add_client(name, nat="linux")
    shut = serve_in(lab, serve, "shut", "meta l4proto udp")
    narrow = serve_in(lab, serve, "narrow", "udp dport 3479-65535")
    client("alice", shut.url)
    client("bob", shut.url)
    client("carol", narrow.url)
    # How many there are by then hangs on how soon a busy machine has started them.
    said = shut.expect("no UDP has reached port 3478 so far although ")
    assert said.endswith("registered: is udp 3478 open in the firewall?")
    assert not any("reached from" in line for line in shut.lines)
    narrow.expect("udp 3478: reached from outside")
    narrow.expect("udp 3479: nothing has come in so far")
    narrow.expect("udp 49152-65535: nothing has come in so far")


def test_a_client_on_the_same_machine_proves_nothing(lab, client, serve) -> None:
    lab.add_server("server")
    server = serve_in(lab, serve)
    client("server", server.url)
    assert not any("reached" in line for line in server.lines)


def test_behind_a_one_to_one_nat_it_names_and_relays_at_the_outside_address(
    lab, serve, tmp_path
) -> None:
    """As in most clouds. Both clients change their port for every peer, so that they need it."""
    [outside] = lab.add_server("server").addresses
    for name in ("alice", "bob"):
        lab.add_client(name, nat="random")
    rules = [
        "table ip one-to-one {",
        "chain in { type nat hook prerouting priority -100;",
        f"ip daddr {outside} dnat to 10.0.0.5",
        "}",
        "chain out { type nat hook postrouting priority 100;",
        f"ip saddr 10.0.0.5 snat to {outside}",
        "}",
        "}",
    ]
    lab.run("server", ["ip", "address", "add", "10.0.0.5/32", "dev", "lo"], check=True)
    lab.run("server", ["nft", "-f", "-"], input="\n".join(rules), text=True, check=True)
    config = tmp_path / "server.toml"
    config.write_text(f'host = ["10.0.0.5"]\ndata = "data"\n[relay]\nexternal = ["{outside}"]\n')
    server = serve(
        *("--config", str(config)), host="", popen=lambda *a, **o: lab.popen("server", *a, **o)
    ).ready()
    assert server.url.startswith(f"knothole://{outside}:3478#")

    def knothole(host: str, *arguments: str) -> list[str]:
        home = f"KNOTHOLE_HOME={tmp_path / host}"
        return ["env", home, sys.executable, "-m", "knothole", *arguments]

    for host in ("alice", "bob"):
        joined = knothole(host, "join", host, "--server", server.url)
        lab.run(host, joined, check=True, capture_output=True)
    listening = lab.popen(
        "bob", knothole("bob", "listen", "--echo"), stdout=subprocess.PIPE, text=True
    )
    assert listening.stdout.readline() == "ready\n"
    said = lab.run(
        "alice",
        knothole("alice", "ping", "bob", "-c", "4", "-i", "0.5", "--json"),
        capture_output=True,
        text=True,
    ).stdout
    listening.kill()
    listening.wait(40)
    listening.stdout.close()
    assert f'"{outside}:' in said, said
    assert "relayed" in said
    server.expect("udp 3478: reached from outside")
    server.expect("udp 49152-65535: reached from outside")
