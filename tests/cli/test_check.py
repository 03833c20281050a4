"""``knothole check`` and ``knothole stun`` with a real server on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

from knothole.cli.check import advice
from knothole.wire.nat import Dependence, NatReport, Preserved, Random
from knothole.wire.server_url import parse_server_url

from .conftest import Person, free_port

EI, APD = Dependence.ENDPOINT_INDEPENDENT, Dependence.ADDRESS_AND_PORT_DEPENDENT


@pytest.fixture
def stun_server(server_url: str) -> str:
    url = parse_server_url(server_url)
    return f"{url.host}:{url.port}"


def test_check_asks_the_server_that_was_joined(alice: Person) -> None:
    code, events = alice.events("check")
    assert code == 0
    rows = {event["row"]: event for event in events if event["event"] == "row"}
    assert rows["udp"]["value"] is True
    assert rows["translated"]["value"] is False
    assert rows["levels"]["value"] == 0
    assert "port_mapping" in rows
    reached = {event["kind"]: event["direct"] for event in events if event["event"] == "reach"}
    assert reached["no NAT"] is True
    assert all(row["evidence"] and row["text"] for row in rows.values())


def test_check_needs_no_profile_with_a_server(
    alice: Person, stun_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alice.home = tmp_path / "nobody"
    code, events = alice.events("check", "--server", f"stun:{stun_server}")
    assert code == 0
    assert {event["event"] for event in events} >= {"row", "reach"}
    assert alice.run("check").returncode == 1


def test_check_for_people_has_the_evidence_below_each_fact(alice: Person, stun_server: str) -> None:
    done = alice.run("check", "--server", f"stun:{stun_server}")
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("UDP           works")
    assert lines[1].startswith(" " * 16)
    assert any(line.startswith("To            no NAT: direct") for line in lines)


def test_stun_shows_the_same_rows(alice: Person, stun_server: str) -> None:
    code, events = alice.events("stun", stun_server)
    assert code == 0
    assert {event["row"] for event in events} >= {"udp", "translated", "filtering"}


def test_a_server_that_does_not_answer_is_a_failure(alice: Person) -> None:
    done = alice.run("stun", f"127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert b"does not answer" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("server", ["a..b", "stun:" + "a" * 64])
def test_a_name_that_cannot_be_is_a_failure(alice: Person, server: str) -> None:
    done = alice.run("stun", server)
    assert done.returncode == 1
    assert b"has no address" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("server", ["stun:", "a b", "127.0.0.1:99999"])
def test_what_is_no_server_is_wrong_usage(alice: Person, server: str) -> None:
    done = alice.run("stun", server)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


def test_classic_needs_a_server_with_two_addresses(alice: Person, stun_server: str) -> None:
    """One that does not speak RFC 3489 looks like none at all; the exit code says so."""
    code, events = alice.events("stun", "--classic", stun_server)
    assert code == 1
    assert events[-1] == {"event": "verdict", "verdict": "UDP blocked"}
    assert events[0]["test"] == "I" and events[0]["mapped"] is None


def test_classic_is_served_by_a_server_that_is_asked_to(alice: Person, tmp_path: Path) -> None:
    alice.home = tmp_path
    port = str(free_port())
    hosts = ("--host", "127.0.0.1", "--host", "127.0.0.2")
    server = alice.start("serve", *hosts, "--port", port, "--classic-stun", "--json")
    server.event("ready")
    code, events = alice.events("stun", "--classic", f"127.0.0.1:{port}")
    assert code == 0
    assert events[-1]["verdict"] == "open internet"
    assert [event["test"] for event in events[:-1]] == ["I", "II"]
    assert events[1]["source"] == f"127.0.0.2:{int(port) + 1}"


def test_advice_names_what_would_help() -> None:
    def words(report: NatReport) -> str:
        return " ".join(advice(report, "example.org"))

    linux = NatReport(translated=True, mapping=EI, filtering=APD, ports=Preserved())
    assert "UPnP" in words(linux) and "IPv6" in words(linux)
    assert "3478 of example.org" in words(NatReport(udp=False))
    random = NatReport(translated=True, mapping=APD, filtering=APD, ports=Random(1024, 65535))
    assert "RFC 4787" in words(random)
    assert "second IP address" in words(NatReport(translated=True))
    assert words(NatReport(translated=False, mapping=EI, filtering=EI, filtering_ipv6=EI)) == ""
