"""Routes of the kernel that the accelerator must leave alone."""

from __future__ import annotations

import subprocess

import pytest

from knothole.io.rtnetlink import RouteNetlink
from knothole.lab.netns.topology import Lab

pytestmark = pytest.mark.netns

TUNNEL = ("encap", "ip", "id", "7", "dst", "127.0.0.2")


def test_a_route_into_a_tunnel_is_none() -> None:
    with Lab() as lab:
        lab.add_server("server")
        with lab.inside("server"):
            netlink = RouteNetlink()
            try:
                add_route("10.77.1.1")
                add_route("10.77.1.2", *TUNNEL)
                plain = netlink.route("127.0.0.1", "10.77.1.1")
                assert plain is not None and plain.next_hop == "10.77.1.1"
                assert netlink.route("127.0.0.1", "10.77.1.2") is None
            finally:
                netlink.close()


@pytest.mark.parametrize("ends", [("::1", "fe80::1%lo"), ("fe80::1%lo", "::1")])
def test_a_host_with_a_scope_is_left_alone_too(ends) -> None:
    """As a client on the same link may have, whoever it is."""
    netlink = RouteNetlink()
    try:
        assert netlink.route("::1", "::1") is not None
        assert netlink.route(*ends) is None
    finally:
        netlink.close()


def add_route(destination: str, *way: str) -> None:
    command = ["ip", "route", "add", destination, *way, "dev", "lo"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "encap" in done.stderr:
        pytest.skip(f"this kernel has no such tunnels: {done.stderr}")
    assert done.returncode == 0, done.stderr
