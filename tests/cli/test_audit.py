"""``knothole audit`` and ``knothole diy assist`` on loopback, where everything is open."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Person, Program, checked, free_port


@pytest.fixture
def somebody(tmp_path: Path) -> Iterator[Person]:
    """Somebody who is registered nowhere."""
    with contextlib.ExitStack() as opened:
        yield Person("somebody", tmp_path, opened)


@pytest.fixture
def assistant(somebody: Person) -> tuple[Program, int]:
    port = free_port()
    program = somebody.start("diy", "assist", str(port), "--host", "127.0.0.1", "--json")
    program.expect("listening")
    return program, port


def test_it_tells_of_every_way_and_gives_rules(
    somebody: Person, server_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "close.nft"
    close = ["--close", "udp,relay", "--outside", "ppp0", "--rules", str(file)]
    done = somebody.run("audit", "--server", server_url, "--json", *close)
    assert done.returncode == 0, done.stderr
    events = [checked("audit", json.loads(line)) for line in done.stdout.splitlines()]
    *ways, made = events
    assert {way["group"] for way in ways} == {
        *("udp", "unasked", "punching", "relay", "proxy", "tcp-punching")
    }
    assert all(way["open"] is None for way in ways if way["group"] == "tcp-punching")
    assert made["file"] == str(file)
    assert made["text"] == file.read_text()
    assert 'define outside = "ppp0"' in made["text"]
    assert "127.0.0.1" in made["text"]


def test_for_people_it_is_a_line_for_each_way_and_the_rules_below(
    somebody: Person, server_url: str
) -> None:
    done = somebody.run("audit", "--server", server_url, "--close", "unasked")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("open    UDP port 53 out (DNS)")
    assert lines[-1] == "}"
    assert "        iifname $outside ct state new counter drop" in lines


def test_the_servers_of_a_profile_are_asked_when_none_is_named(alice: Person) -> None:
    code, events = alice.events("audit")
    assert code == 0
    assert any(event["open"] for event in events)


def test_without_a_profile_and_a_server_it_says_what_to_do(somebody: Person) -> None:
    done = somebody.run("audit")
    assert done.returncode == 1
    assert b"--server" in done.stderr


class Proxy:
    """An HTTP CONNECT proxy on loopback for one connection, willing or not."""

    def __init__(self, status: str) -> None:
        self.asked = b""
        self._status = status
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._thread.join(30.0)
        self._listener.close()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client:
            self.asked = client.recv(2000)
            host, _, port = self.asked.split()[1].decode().rpartition(":")
            client.sendall(f"HTTP/1.1 {self._status}\r\n\r\n".encode())
            if not self._status.startswith("200"):
                return
            with socket.create_connection((host, int(port))) as server:
                ends = {client: server, server: client}
                while True:
                    for ready in select.select(ends, [], [])[0]:
                        if not (data := ready.recv(4096)):
                            return
                        ends[ready].sendall(data)


@pytest.mark.parametrize(
    ("status", "is_open", "words"),
    [("200 OK", True, "the relay has answered"), ("403 Forbidden", False, "403 Forbidden")],
)
def test_the_proxy_that_the_environment_names_is_tried(
    somebody: Person,
    server_url: str,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    is_open: bool,
    words: str,
) -> None:
    for name in ("https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with contextlib.closing(Proxy(status)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        done = somebody.run("audit", "--server", server_url, "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    [way] = [event for event in events if event["group"] == "proxy"]
    assert way["open"] is is_open
    assert words in way["evidence"]


def test_the_proxy_gets_the_password_that_the_environment_has_and_nobody_else_does(
    somebody: Person, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with contextlib.closing(Proxy("403 Forbidden")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//alice:hush@"))
        done = somebody.run("audit", "--server", server_url, "--json")
    assert b"Proxy-Authorization: Basic YWxpY2U6aHVzaA==" in proxy.asked
    assert b"hush" not in done.stdout + done.stderr


@pytest.mark.parametrize("url", ["http://10.0.0.1:word", "socks5://alice:hush@10.0.0.1:1080"])
def test_a_proxy_that_cannot_be_used_is_shown_with_a_question_mark(
    somebody: Person, server_url: str, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    for name in ("https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", url)
    done = somebody.run("audit", "--server", server_url, "--json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    [way] = [event for event in events if event["group"] == "proxy"]
    assert way["open"] is None
    assert b"hush" not in done.stdout


def asked(port: int, *requests: str) -> list[dict[str, Any]]:
    """What the assistant says to these lines, and before them, until it hangs up."""
    answers: list[dict[str, Any]] = []
    with socket.create_connection(("127.0.0.1", port), 30.0) as asker:
        with contextlib.suppress(OSError):  # it may hang up before it was told all of them
            asker.sendall("".join(f"{each}\n" for each in requests).encode())
            asker.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError), asker.makefile("rb") as lines:
            for line in lines:
                answers.append(json.loads(line))  # noqa: PERF401 - what came before counts
    return answers


def test_an_assistant_opens_a_connection_to_who_asks(
    assistant: tuple[Program, int],
) -> None:
    program, port = assistant
    with socket.create_server(("127.0.0.1", 0)) as opened:
        opened.settimeout(30.0)
        wanted = opened.getsockname()[1]
        greeting, answer = asked(port, json.dumps({"send": "connection", "port": wanted}))
        arrived, source = opened.accept()
        arrived.close()
    assert greeting["you"].startswith("127.0.0.1:")
    assert answer == {"done": True, "why": ""}
    assert source == ("127.0.0.1", port + 1)
    program.expect("assisted")
    events = [checked("diy assist", json.loads(line)) for line in program.stdout.splitlines()]
    assert events[-1]["port"] == wanted and events[-1]["done"] is True


@pytest.mark.parametrize(
    "request_line",
    ["", "nonsense", "[]", "{}", '{"send": "syn"}', '{"send": "syn", "port": 70000}', "x" * 5000],
)
def test_an_assistant_hangs_up_on_nonsense_and_serves_the_next(
    assistant: tuple[Program, int], request_line: str
) -> None:
    _, port = assistant
    assert len(asked(port, request_line)) <= 1
    unknown = asked(port, '{"send": "everything", "port": 1414}')
    assert unknown[1] == {"done": False, "why": "that is not known here"}


def test_an_assistant_sends_a_few_packets_and_no_more(assistant: tuple[Program, int]) -> None:
    _, port = assistant
    answers = asked(port, *['{"send": "everything", "port": 1414}'] * 20)
    assert len(answers) == 1 + 8


@pytest.mark.parametrize("answer", [b"nonsense\n", b"[]\n", b'{"you": 1}\n' * 2, b"[" * 3000])
def test_what_is_no_assistant_is_told_in_each_line(
    somebody: Person, server_url: str, answer: bytes
) -> None:
    def answer_everybody() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.sendall(answer)
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=answer_everybody, daemon=True)
        thread.start()
        done = somebody.run(
            "audit", "--server", server_url, "--assistant", f"127.0.0.1:{port}", "--json"
        )
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(30.0)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    ways = [event for event in events if event["group"] == "tcp-punching"]
    assert len(ways) == 3
    assert {way["open"] for way in ways} == {None}
