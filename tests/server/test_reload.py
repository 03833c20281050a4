"""What of a configuration can be had without a restart."""

from __future__ import annotations

from dataclasses import fields, replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from knothole.engine.turn.tokens import TokenKey
from knothole.server.config import OtherTurn, ServerConfig
from knothole.server.config_users import RelayUser
from knothole.server.reload import KEYS, LIVE, applied
from knothole.wire.address import Address

RUNNING = ServerConfig(Path("/data"), certificate=Path("/a.pem"), key=Path("/a.key"))
CHANGED = {
    "certificate": Path("/b.pem"),
    "key": Path("/b.key"),
    "allow_peers": (ip_network("10.0.0.0/8"),),
    "deny_peers": (ip_network("10.0.0.0/8"),),
    "secret_file": Path("/secret"),
    "other_turn": (OtherTurn(("turn:a",), b"a long secret"),),
    "alternates": (Address("203.0.113.7", 3478),),
    "users": (RelayUser("bridge", "a password"),),
    "oauth": (TokenKey("north", b"k" * 32, "turn.example.org"),),
    "data": Path("/elsewhere"),
    "metrics": Address("127.0.0.1", 9478),
    "hosts": ("127.0.0.1",),
    "also_listen": (443,),
    "name": "example.org",
    "external": ("203.0.113.5",),
    "relay_hosts": ("127.0.0.1",),
}


def changed(field: str) -> object:
    """Another value than the running one."""
    before = getattr(RUNNING, field)
    if field in CHANGED:
        return CHANGED[field]
    return not before if isinstance(before, bool) else before + 1


def test_every_field_either_changes_at_once_or_needs_a_restart() -> None:
    assert {each.name for each in fields(ServerConfig)} == LIVE | KEYS.keys() | {"relay_ports"}
    assert not LIVE & KEYS.keys()


@pytest.mark.parametrize("field", sorted(LIVE))
def test_what_is_safe_changes_at_once(field: str) -> None:
    wanted = replace(RUNNING, **{field: changed(field)})
    assert wanted != RUNNING
    assert applied(RUNNING, wanted) == (wanted, [])


@pytest.mark.parametrize("field", sorted(KEYS))
def test_what_is_not_safe_stays_and_is_named(field: str) -> None:
    wanted = replace(RUNNING, **{field: changed(field)})
    assert applied(RUNNING, wanted) == (RUNNING, [KEYS[field]])


@pytest.mark.parametrize(
    ("ports", "named"),
    [
        ((50_000, 65535), ["relay.first-port"]),
        ((49152, 60_000), ["relay.last-port"]),
        ((50_000, 60_000), ["relay.first-port", "relay.last-port"]),
    ],
)
def test_of_the_relayed_ports_the_end_that_has_changed_is_named(ports, named) -> None:
    assert applied(RUNNING, replace(RUNNING, relay_ports=ports)) == (RUNNING, named)


def test_whether_the_server_is_known_by_its_key_or_its_name_stays() -> None:
    own = replace(RUNNING, certificate=None, key=None)
    assert applied(own, RUNNING) == (own, ["tls"])
    assert applied(RUNNING, own) == (RUNNING, ["tls"])
