"""Profiles: made by join, found by KNOTHOLE_HOME, and errors that say what to do."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from knothole.cli.app import run

from .conftest import Person, free_port, serving

IDENTITY, SETTINGS, CONTACTS = "identity.pem", "profile.json", "known_peers.json"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a new profile, for commands run in this process."""
    monkeypatch.setenv("KNOTHOLE_HOME", str(tmp_path / "new"))
    return tmp_path / "new"


def test_join_makes_a_profile_that_only_its_owner_can_read(home: Path, server_url: str) -> None:
    assert run(["join", "Dora", "--server", server_url]) == 0
    settings = json.loads((home / SETTINGS).read_text())
    assert settings == {"name": "dora", "server": server_url}
    assert stat.S_IMODE((home / IDENTITY).stat().st_mode) == 0o600


def test_to_join_again_does_no_harm_and_another_name_is_told(
    home: Path, server_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("erika", "erika", "ernst"):
        assert run(["join", name, "--server", server_url, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["joined", "joined", "was", "joined"]
    assert len({event["key"] for event in events if event["event"] == "joined"}) == 1
    assert events[2]["name"] == "erika"


def test_a_name_that_is_taken_is_refused_and_no_profile_is_made(
    home: Path, alice: Person, server_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["join", alice.name, "--server", server_url]) == 1
    assert "belongs to another key" in capsys.readouterr().err
    assert not (home / SETTINGS).exists()


def test_a_key_that_cannot_be_kept_registers_no_name(
    tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch, alice: Person
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("KNOTHOLE_HOME", str(tmp_path / "file"))
    assert run(["join", "fritz", "--server", server_url]) == 1
    assert b"Nobody named fritz" in alice.run("ping", "fritz", "-c", "1").stderr


@pytest.mark.parametrize("command", ["status", "contacts", "listen", "ping bob", "call bob"])
def test_without_a_profile_every_command_says_how_to_make_one(
    command: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = ["--in", "null", "--out", "null"] if command.startswith("call") else []
    assert run([*command.split(), *sound]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert str(home) in err
    assert "knothole join NAME" in err


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (SETTINGS, b"{"),
        (SETTINGS, b'{"name": "x"}'),
        (SETTINGS, b'{"name": "x", "server": "http://x"}'),
        (IDENTITY, b"no key"),
        (CONTACTS, b"[{}]"),
    ],
)
def test_a_damaged_profile_is_named_with_its_folder(
    file: str, content: bytes, alice: Person
) -> None:
    (alice.home / file).write_bytes(content)
    done = alice.run("contacts")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert str(alice.home).encode() in done.stderr
    assert b"Traceback" not in done.stderr


def test_status_shows_who_and_where_and_what_the_nat_does(alice: Person, server_url: str) -> None:
    code, events = alice.events("status")
    assert code == 0
    told = {event["event"]: event for event in events}
    assert (told["identity"]["name"], told["identity"]["server"]) == (alice.name, server_url)
    assert told["server"]["online"] is True
    assert told["nat"]["udp"] is True
    assert told["nat"]["translated"] is False
    assert len(told["nat"]["mapped"]) == 2  # the server's port and its discovery port
    assert told["nat"]["answered_from_other_port"] is True
    kinds = {event["kind"] for event in events if event["event"] == "candidate"}
    assert kinds >= {"host", "relayed"}


def test_status_for_people_has_a_heading_on_every_line(alice: Person) -> None:
    done = alice.run("status")
    assert done.returncode == 0
    headings = [line[:12].strip() for line in done.stdout.decode().splitlines()]
    assert headings[:5] == ["Name", "Key", "Profile", "Server", "Registered"]
    assert {"UDP", "NAT", "Filtering", "Relay", "Candidate"} <= set(headings)


def test_without_its_server_status_still_says_who_one_is(
    alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knothole.cli.status.SERVER_SECONDS", 0.5)
    settings = json.loads((alice.home / SETTINGS).read_text())
    settings["server"] = f"knothole://127.0.0.1:{free_port()}#{settings['server'].split('#')[1]}"
    (alice.home / SETTINGS).write_text(json.dumps(settings))
    done = alice.run("status")
    assert done.returncode == 1
    assert alice.name in done.stdout.decode()
    assert "cannot be reached" in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_a_server_with_another_key_is_not_talked_to(alice: Person) -> None:
    settings = json.loads((alice.home / SETTINGS).read_text())
    address, pin = settings["server"].split("#")
    settings["server"] = f"{address}#{'b' if pin[0] == 'a' else 'a'}{pin[1:]}"
    (alice.home / SETTINGS).write_text(json.dumps(settings))
    done = alice.run("ping", "bob")
    assert done.returncode == 1
    assert "another key than the pinned one" in done.stderr.decode()


def test_contacts_are_listed_with_who_is_online(alice: Person, bob: Person, carol: Person) -> None:
    alice.knows(bob)
    alice.knows(carol)
    bob.listening("--echo")
    code, events = alice.events("contacts")
    assert code == 0
    online = {event["name"]: event["online"] for event in events}
    assert online == {bob.name: True, carol.name: False}
    assert all(event["key"].startswith("SHA256:") for event in events)


def test_contacts_without_a_server_are_listed_all_the_same(
    alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knothole.cli.contacts.SERVER_SECONDS", 0.5)
    alice.knows(bob)
    settings = json.loads((alice.home / SETTINGS).read_text())
    settings["server"] = f"knothole://127.0.0.1:{free_port()}#{settings['server'].split('#')[1]}"
    (alice.home / SETTINGS).write_text(json.dumps(settings))
    done = alice.run("contacts")
    assert done.returncode == 0
    assert f"{bob.name}  unknown" in done.stdout.decode()
    assert "not known" in done.stderr.decode()


def test_nobody_known_is_said(alice: Person) -> None:
    done = alice.run("contacts")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Nobody's key" in done.stderr


def test_a_contact_is_forgotten_once(alice: Person, bob: Person) -> None:
    alice.knows(bob)
    code, events = alice.events("contacts", "--forget", bob.name.upper())
    assert (code, events) == (0, [{"event": "forgotten", "name": bob.name}])
    again = alice.run("contacts", "--forget", bob.name)
    assert again.returncode == 1
    assert bob.name.encode() in again.stderr


def test_a_key_that_has_changed_is_refused_as_ssh_does(
    alice: Person, bob: Person, carol: Person
) -> None:
    """Names are owned by keys, so what has changed here is what Alice remembers."""
    alice.knows(bob, by_the_key_of=carol)
    listener = bob.listening("--pipe")
    done = alice.run("pipe", bob.name, stdin=b"secret")
    assert done.returncode == 1
    text = done.stderr.decode()
    assert f"THE KEY OF {bob.name} HAS CHANGED" in text
    assert text.count("SHA256:") == 2
    assert f"knothole contacts --forget {bob.name}" in text
    assert (done.stdout, listener.stdout) == (b"", "")
    assert alice.run("contacts", "--forget", bob.name).returncode == 0
    listener.end_input()
    assert alice.run("pipe", bob.name, stdin=b"hello").returncode == 0
    assert (listener.wait(), listener.stdout) == (0, "hello")


def test_who_remembers_another_key_for_the_caller_refuses_the_call(
    alice: Person, bob: Person, carol: Person
) -> None:
    bob.knows(alice, by_the_key_of=carol)
    bob.listening("--echo")
    done = alice.run("ping", bob.name, "-c", "1")
    assert done.returncode == 1
    assert f"{bob.name} remembers another key" in done.stderr.decode()


def test_a_listener_says_when_the_server_is_away_and_when_it_is_back(
    tmp_path: Path, register: Callable[[str, str], Person]
) -> None:
    port = free_port()
    with serving(tmp_path, port=port) as url:
        alice, bob = register("alice", url), register("bob", url)
        listener = bob.listening("--echo")
    listener.expect("The server 127.0.0.1 is away; trying again")
    with serving(tmp_path, port=port):
        listener.expect("Back on 127.0.0.1: you can be called again.")
        assert alice.run("ping", bob.name, "-c", "1").returncode == 0


def test_a_proxy_is_kept_in_the_profile_and_its_password_only_comes_from_a_file(
    home: Path, server_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "proxy"
    secret.write_text("http://dora:hush@proxy.example:3128\n")
    join = ["join", "dora-2", "--server", server_url, "--json", "--proxy"]
    assert run([*join, "http://dora:hush@proxy.example:3128"]) == 2
    assert run([*join, "socks5://dora:hush@proxy.example"]) == 2
    assert run([*join, f"@{tmp_path / 'missing'}"]) == 2
    assert not (home / SETTINGS).exists()
    assert run([*join, f"@{secret}"]) == 0
    assert json.loads((home / SETTINGS).read_text())["proxy"] == secret.read_text().strip()
    assert stat.S_IMODE((home / SETTINGS).stat().st_mode) == 0o600
    captured = capsys.readouterr()
    assert "hush" not in captured.out + captured.err


def test_a_proxy_of_the_environment_that_is_none_is_said_in_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://dora:hush@proxy.example:1080")
    assert run(["join", "dora-3", "--server", "knothole://198.51.100.1"]) == 1
    said = capsys.readouterr().err
    assert "environment names: socks5:// is not spoken" in said
    assert "hush" not in said
