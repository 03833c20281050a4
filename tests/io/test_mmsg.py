"""Addresses as the kernel writes them."""

from __future__ import annotations

import struct

import pytest

from knothole.io.mmsg import HAS_MMSG, address_of, name_of
from knothole.wire.address import Address

pytestmark = pytest.mark.skipif(not HAS_MMSG, reason="there are no such calls")


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_an_address_is_the_same_when_it_has_been_there_and_back(host: str) -> None:
    assert address_of(name_of(Address(host, 4000))) == Address(host, 4000)


@pytest.mark.parametrize(("scope", "shown"), [(1, "lo"), (0x7FFF_FFFF, "2147483647")])
def test_a_scope_is_an_interface_by_its_name_or_what_is_left_of_one_that_is_gone(
    scope: int, shown: str
) -> None:
    name = name_of(Address("fe80::1", 4000))[:-4] + struct.pack("=I", scope)
    assert address_of(name) == Address(f"fe80::1%{shown}", 4000)
