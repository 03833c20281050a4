"""Where clients of the relay are told that it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from knothole.server.config import ServerConfig
from knothole.server.whereabouts import (
    NoWhereabouts,
    Whereabouts,
    client_hosts,
    read_whereabouts,
    turn_uris,
    write_whereabouts,
)
from knothole.wire.turn_uri import parse_server_uri

HERE = Path()
LISTENING = ("127.0.0.1", "10.0.0.5", "8.8.8.8", "::1", "2a00::1")


def test_clients_are_told_the_operators_word_before_any_other() -> None:
    config = ServerConfig(HERE, name="turn.example.org", external=("8.8.4.4",))
    assert client_hosts(config, LISTENING) == ("turn.example.org",)
    config = ServerConfig(HERE, external=("8.8.4.4",))
    assert client_hosts(config, LISTENING) == ("8.8.4.4",)
    config = ServerConfig(HERE, hosts=("10.0.0.5", "::1"))
    assert client_hosts(config, ("10.0.0.5", "::1")) == ("10.0.0.5", "::1")
    assert client_hosts(ServerConfig(HERE), LISTENING) == ("8.8.8.8", "2a00::1")


def test_the_uris_name_every_way_in() -> None:
    uris = turn_uris(["8.8.8.8", "2a00::1"], 3478, [443])
    assert uris == [
        "turn:8.8.8.8:3478?transport=udp",
        "turn:[2a00::1]:3478?transport=udp",
        "turns:8.8.8.8:3478?transport=tcp",
        "turns:[2a00::1]:3478?transport=tcp",
        "turns:8.8.8.8:443?transport=tcp",
        "turns:[2a00::1]:443?transport=tcp",
        "turn:8.8.8.8:3478?transport=tcp",
        "turn:[2a00::1]:3478?transport=tcp",
    ]
    for uri in uris:
        parse_server_uri(uri)


def test_they_are_kept_for_who_makes_credentials(tmp_path: Path) -> None:
    here = Whereabouts("knothole", ["turn:127.0.0.1:3478?transport=udp"])
    with pytest.raises(NoWhereabouts, match="start it first"):
        read_whereabouts(tmp_path)
    write_whereabouts(tmp_path, here)
    assert read_whereabouts(tmp_path) == here
    (tmp_path / "turn.json").write_text("{}")
    with pytest.raises(NoWhereabouts, match="is damaged: start the server again"):
        read_whereabouts(tmp_path)
