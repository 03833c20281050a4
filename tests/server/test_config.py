"""The configuration file: its documentation, and every mistake that can be made in it."""

from __future__ import annotations

import base64
import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from knothole.engine.turn.tokens import TokenKey
from knothole.server.config import ConfigError, ServerConfig, UsageError, load_config
from knothole.server.config_file import ConfigFile, OauthTable, OtherTurnTable, UserTable
from knothole.server.config_users import RelayUser

GOOD_FILE = "password-file = 'good'"
USER_FILE = "conference-bridge.password"
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "server.md"


def example() -> str:
    found = re.search(r"```toml\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def load(folder: Path, text: str, **options: object) -> ServerConfig:
    file = folder / "server.toml"
    file.write_text(text)
    return load_config(file, default_data=folder / "default", **options)


def error(folder: Path, text: str) -> str:
    """What is wrong with a file, without the name of the file."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    said = str(caught.value)
    assert said.startswith(f"{folder / 'server.toml'}")
    assert "\n" not in said
    return said.removeprefix(str(folder / "server.toml")).removeprefix(", ")


def test_the_documented_example_can_be_loaded(tmp_path: Path) -> None:
    for name in ("fullchain.pem", "privkey.pem", "coturn-secret", "turn-secret", USER_FILE):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text("a long secret, 24 letters\n")
    (tmp_path / "north.key").touch(0o600)
    (tmp_path / "north.key").write_text(base64.b64encode(b"k" * 32).decode())
    config = load(tmp_path, example())
    assert config.oauth == (TokenKey("north", b"k" * 32, "turn.example.org"),)
    assert config.data == tmp_path / "data"
    assert config.certificate == tmp_path / "fullchain.pem"
    [other] = config.other_turn
    assert other.secret == b"a long secret, 24 letters"
    assert config.users == (RelayUser("conference-bridge", "a long secret, 24 letters"),)
    assert "letters" not in repr(config)
    assert config.secrets_path == tmp_path / "turn-secret"


def keys_of(table: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(table)}


def test_every_key_is_documented() -> None:
    content = tomllib.loads(example())
    assert content.keys() == keys_of(ConfigFile)
    assert content["turn"][0].keys() == keys_of(OtherTurnTable)
    assert content["user"][0].keys() == keys_of(UserTable)
    assert content["oauth"][0].keys() == keys_of(OauthTable)
    defaults = msgspec.structs.asdict(ConfigFile())
    for name in ("tls", "relay", "accounts", "metrics"):
        assert content[name].keys() == keys_of(type(defaults[name]))


def test_the_documented_defaults_are_the_defaults() -> None:
    content = tomllib.loads(example())
    defaults = msgspec.to_builtins(ConfigFile())
    defaults["discovery-port"] = ConfigFile().port + 1
    table, comment, checked = "", "", 0
    for line in example().splitlines():
        if line.startswith("["):
            table, comment = line.strip("[]"), ""
        elif line.startswith("#"):
            comment += line
        elif not line:
            comment = ""
        elif table not in ("tls", "turn", "user", "oauth") and "Not a default" not in comment:
            key = line.partition(" =")[0]
            there, here = (content, defaults) if not table else (content[table], defaults[table])
            assert there[key] == here[key], key
            checked += 1
    assert checked >= 13  # there are so many, or else nothing was compared


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = 'x'", "line 1: port: expected int, got str"),
        ("port = 70000", "line 1: port: expected int <= 65535"),
        ("\nports = 1", "line 2: ports: there is no such key"),
        ("host = '1.2.3.4'", "line 1: host: expected array, got str"),
        ("port = 1\nhost = ['example.org']", "line 2: host: 'example.org' is not an IP address"),
        ("host = ['224.0.0.1']", "line 1: host: 224.0.0.1 is a multicast address"),
        ("host = ['fe80::1']", "line 1: host: fe80::1 is good on one link only; "),
        ("also-listen = [443, 0]", "line 1: also-listen[1]: expected int >= 1"),
        ("also-listen = [3478]", "line 1: also-listen: 3478 is listened on already"),
        ("discovery-port = 3478", "line 1: discovery-port: 3478 is the server's port already"),
        ("name = 'a b'", "line 1: name: "),
        ("name = 'host:1234'", "line 1: name: "),
        ("[relay]\n\nfrist-port = 1", "line 3: relay.frist-port: there is no such key"),
        ("[relay]\nfirst-port = 80", "line 2: relay.first-port: expected int >= 1024"),
        (
            "[relay]\nlast-port = 50000\nfirst-port = 60000",
            "line 3: relay.first-port: 60000 is above relay.last-port 50000",
        ),
        (
            "relay.external = ['203.0.113.5', '203.0.113.6']",
            "line 1: relay.external: more than one address of a family",
        ),
        ("[relay]\nexternal = ['0.0.0.0']", "line 2: relay.external: name the address itself"),
        (
            "[relay]\nallow-peers = ['10.0.0.1/8']",
            "line 2: relay.allow-peers: 10.0.0.1/8 has host bits set",
        ),
        ("[relay]\nhost = ['::']", "line 2: relay.host: name the address itself"),
        (
            "[relay]\nhost = ['10.0.0.1', '10.0.0.2']\nexternal = ['203.0.113.5']",
            "line 2: relay.host: more than one address of a family",
        ),
        ("[relay]\nsecret-file = 'none'", "line 2: relay.secret-file: "),
        ("relay-only = 1", "line 1: relay-only: expected bool"),
        (
            "[relay]\ndeny-peers = ['::ffff:10.0.0.0/104']",
            "line 2: relay.deny-peers: ::ffff:10.0.0.0/104 are IPv4 addresses: write them as such",
        ),
        (
            "[relay]\ndeny-peers = ['fe80::%eth0/64']",
            "line 2: relay.deny-peers: fe80::%eth0/64 has a scope: peers have none",
        ),
        ("[relay]\ndeny-peers = ['']", "line 2: relay.deny-peers: '' does not appear to be an"),
        ("[relay]\ndeny-peers = [10]", "line 2: relay.deny-peers[0]: expected str, got int"),
        ("[relay]\nmax-megabits = -1", "line 2: relay.max-megabits: expected int >= 0"),
        ("[relay]\nallocations = -1", "line 2: relay.allocations: expected int >= 0"),
        ("[tls]\ncertificate = 'server.toml'", "line 1: tls.key: is missing beside"),
        ("[tls]\nkey = 'server.toml'", "line 1: tls.certificate: is missing beside"),
        (
            "[tls]\nkey = 'server.toml'\ncertificate = 'none.pem'",
            "line 3: tls.certificate: none.pem cannot be read: No such file or directory",
        ),
        ("[[turn]]\nuris = ['turn:a']", "line 1: turn[0].secret-file: is missing"),
        (
            "[[turn]]\nuris = ['turn:a']\nsecret-file = 'server.toml'\n"
            "[[turn]]\nuris = ['http://a']\nsecret-file = 'server.toml'",
            "line 5: turn[1].uris: not a STUN or TURN URI",
        ),
        (
            "[[turn]]\nuris = ['stun:a']\nsecret-file = 'server.toml'",
            "line 2: turn[0].uris: 'stun:a' is not of a TURN server",
        ),
        (
            "[[turn]]\nuris = ['turn:a']\nsecret-file = 'short'",
            "line 3: turn[0].secret-file: the secret in short is shorter than 8 characters",
        ),
        ("[[user]]\nname = 'bob'", "line 1: user[0].password-file: is missing"),
        (f"[[user]]\nname = ' '\n{GOOD_FILE}", "line 2: user[0].name: ' ' is no name"),
        (f"[[user]]\nname = '99:a'\n{GOOD_FILE}", "line 2: user[0].name: '99:a' has the form"),
        (f"[[user]]\nname = ':a'\n{GOOD_FILE}", "line 2: user[0].name: ':a' has the form"),
        (
            f"[[user]]\nname = 'bob'\n{GOOD_FILE}\n[[user]]\nname = 'bob'\n{GOOD_FILE}",
            "line 5: user[1].name: there are two users bob",
        ),
        (
            "[[user]]\nname = 'bob'\npassword-file = 'none'",
            "line 3: user[0].password-file: none cannot be read: No such file or directory",
        ),
        (
            "[[user]]\nname = 'bob'\npassword-file = 'server.toml'",
            "line 3: user[0].password-file: server.toml can be read by everybody",
        ),
        (
            "[[user]]\nname = 'bob'\npassword-file = 'short'",
            "line 3: user[0].password-file: the password in short does not have 8 to 256",
        ),
        (
            "[[user]]\nname = 'bob'\npassword-file = 'lines'",
            "line 3: user[0].password-file: lines must hold one line and nothing else",
        ),
        ("[metrics]\nlisten = '9478'", "line 2: metrics.listen: '9478' is not of the form"),
        ("[metrics]\nlisten = 'localhost:1'", "line 2: metrics.listen: 'localhost:1' is not"),
        ("[metrics]\nlisten = '[::1]:70000'", "line 2: metrics.listen: "),
        ("[relay]\nalternates = ['a.example']", "line 2: relay.alternates: 'a.example' is not of"),
        ("[relay]\nalternates = ['0.0.0.0:1']", "line 2: relay.alternates: 0.0.0.0:1 is no addr"),
        ("[relay]\nalternates = ['8.8.8.8:0']", "line 2: relay.alternates: 8.8.8.8:0 is no addr"),
        (
            "[relay]\nalternates = ['8.8.8.8:1', '8.8.4.4:1']",
            "line 2: relay.alternates: more than one of IPv4 or of IPv6",
        ),
        (
            f"[[user]]\nname = 'bob'\n{GOOD_FILE}\n"
            "[[oauth]]\nkid = 'a'\nkey-file = 'good'\nserver-name = 'b'",
            "line 6: oauth[0].key-file: good does not hold 16 or 32 bytes in base64",
        ),
        (
            "[[oauth]]\nkid = 'a'\nkey-file = 'key'\nserver-name = 'b'\n"
            "[[oauth]]\nkid = 'a'\nkey-file = 'key'\nserver-name = 'b'",
            "line 6: oauth[1].kid: there are two keys a",
        ),
        (
            "[[oauth]]\nkid = 'a'\nkey-file = 'key'\nserver-name = 'b'\n"
            "[[oauth]]\nkid = 'c'\nkey-file = 'key'\nserver-name = 'd'",
            "line 8: oauth[1].server-name: is not the same as that of the first",
        ),
        (
            "[accounts]\ninvitation-required = 1",
            "line 2: accounts.invitation-required: expected bo",
        ),
        ("port = ", ": not valid TOML: Invalid value (at end of document)"),
        ("[relay\n", ": not valid TOML: "),
        ("relay = 1", "line 1: relay: expected object, got int"),
    ],
)
def test_a_mistake_is_named_with_line_key_and_reason(tmp_path: Path, text, said) -> None:
    files = {"short": "abc\n", "good": "a password\n", "lines": "a\nb\n", "key": "A" * 43 + "="}
    for name, content in files.items():
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(content)
    assert error(tmp_path, text).startswith(said)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    with pytest.raises(ConfigError) as caught:
        load_config(missing, default_data=tmp_path)
    assert str(caught.value) == f"{missing}: cannot be read: No such file or directory"
    missing.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_config(missing, default_data=tmp_path)


def test_without_a_file_there_are_the_defaults(tmp_path: Path) -> None:
    config = load_config(None, default_data=tmp_path / "there")
    assert config == ServerConfig(data=tmp_path / "there")
    assert (config.port, config.discovery_port, config.relay_ports) == (3478, 3479, (49152, 65535))


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    text = "host = ['127.0.0.1']\nport = 4000\nalso-listen = [4443]\ndata = 'kept'\n"
    config = load(tmp_path, text)
    assert config.hosts == ("127.0.0.1",)
    assert (config.port, config.discovery_port, config.also_listen) == (4000, 4001, (4443,))
    assert config.data == tmp_path / "kept"
    config = load(
        tmp_path, text, hosts=("::1",), port=5000, also_listen=(443, 443), data=Path("/elsewhere")
    )
    assert config.hosts == ("::1",)
    assert (config.port, config.discovery_port, config.also_listen) == (5000, 5001, (443,))
    assert config.data == Path("/elsewhere")


def test_what_the_command_line_says_of_the_relay_comes_on_top_of_the_file(tmp_path: Path) -> None:
    text = "[relay]\nhost = ['10.0.0.1']\nallow-peers = ['10.0.0.0/8']\n"
    config = load(tmp_path, text)
    assert (config.relay_only, config.relay_hosts) == (False, ("10.0.0.1",))
    config = load(
        tmp_path, text, relay_only=True, relay_hosts=("10.0.0.2",), allow_peers=("fd00::/8",)
    )
    assert (config.relay_only, config.relay_hosts) == (True, ("10.0.0.2",))
    assert [str(network) for network in config.allow_peers] == ["10.0.0.0/8", "fd00::/8"]
    with pytest.raises(UsageError, match="--allow-peer: 'x' does not appear"):
        load_config(None, default_data=tmp_path, allow_peers=("x",))


def test_addresses_come_out_in_canonical_text(tmp_path: Path) -> None:
    text = "host = ['2001:DB8::0001', '2001:db8::1']\nname = '2001:DB8::2'\n"
    config = load(tmp_path, text + "[relay]\nexternal = ['2001:0DB8::3']")
    assert config.hosts == ("2001:db8::1",)
    assert config.name == "2001:db8::2"
    assert config.external == ("2001:db8::3",)


def test_what_is_wrong_on_the_command_line_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--host: 'x' is not an IP address"):
        load_config(None, default_data=tmp_path, hosts=("x",))


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("", ""),
        ("allocations = 0", ""),
        ("allocations = 7", "line 3: relay.allocations: 7 is too few for 4 relay processes: 8"),
        ("allocations-per-user = 7", "line 3: relay.allocations-per-user: 7 is too few for 4"),
        ("allocations-per-network = 7", "line 3: relay.allocations-per-network: 7 is too few"),
        (
            "mobility = true",
            "line 3: relay.mobility: a client at a new address may come",
        ),
        ("last-port = 49158", "line 3: relay.last-port: 7 ports are too few for 4 relay processes"),
    ],
)
def test_each_relay_process_has_something_to_grant(tmp_path: Path, lines, problem) -> None:
    text = f"[relay]\nprocesses = 4\n{lines}\n"
    if not problem:
        assert load(tmp_path, text).relay_processes == 4
        return
    assert error(tmp_path, text).startswith(problem)
    assert load(tmp_path, text, relay_processes=1).relay_processes == 1, "the command line counts"


@pytest.mark.parametrize("processes", [-1, 0, 17])
def test_there_are_1_to_16_relay_processes(tmp_path: Path, processes) -> None:
    with pytest.raises(UsageError, match=f"--relay-processes: {processes} is not within 1-16"):
        load_config(None, default_data=tmp_path, relay_processes=processes)
    said = error(tmp_path, f"[relay]\nprocesses = {processes}\n")
    assert said.startswith("line 2: relay.processes: expected `int`".replace("`", ""))
