"""The kernel says when an address came or went: nobody has to look for it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from knothole.io.netlink import AddressEvents
from knothole.lab.netns.namespace import Namespace

pytestmark = pytest.mark.netns


async def test_an_address_that_comes_or_goes_is_told_at_once(lab) -> None:
    lab.add_server()
    lab.add_client("alice", nat="linux")
    namespace: Namespace = lab.hosts["alice"].namespace
    told = asyncio.Event()
    with namespace.entered():
        events = AddressEvents(told.set)
    try:
        for change in ("add_address", "delete_address"):
            told.clear()
            with namespace.netlink() as netlink:
                getattr(netlink, change)(socket.if_nametoindex("eth0"), "10.0.1.77/24")
            async with asyncio.timeout(40):
                await told.wait()
    finally:
        events.close()
