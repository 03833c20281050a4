"""What a server says of itself is read when its relay has said something."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from knothole.lab.fuzz import witness
from knothole.lab.fuzz.witness import read_figures

SILENT = (503, "a relay process does not answer\n")


class Server(ThreadingHTTPServer):
    """Answers with ``health`` and ``relays`` in turn, with the last of them again and again."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.health, self.relays = [(200, "ok\n")], [1]

    def answer(self, path: str) -> tuple[int, str]:
        if path == "/healthz":
            return self.health.pop(0) if len(self.health) > 1 else self.health[0]
        relays = self.relays.pop(0) if len(self.relays) > 1 else self.relays[0]
        up = f'knothole_process_up{{process="relay"}} {relays}\n'
        return 200, f"{up}knothole_allocations {7 * relays}\n"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        code, text = self.server.answer(self.path)
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_a_relay_that_was_busy_is_asked_again(server: Server) -> None:
    server.health = [SILENT, (200, "ok\n")]
    server.relays = [1, 0, 0, 1]
    found = read_figures(server.server_port)
    assert (found.allocations, found.health) == (7, "")


def test_a_relay_that_says_nothing_has_no_figures(server: Server, monkeypatch) -> None:
    """Rather than that everything is 0."""
    monkeypatch.setattr(witness, "ILL_SECONDS", 0.05)
    server.relays = [0]
    with pytest.raises(ValueError, match="does not answer: it is in no figures"):
        read_figures(server.server_port)
    server.relays, server.health = [1], [SILENT]
    with pytest.raises(ValueError, match="does not answer: 503"):
        read_figures(server.server_port)


def test_a_server_that_drains_says_so_and_has_figures(server: Server) -> None:
    server.health = [(503, "draining\n")]
    assert read_figures(server.server_port).health == "503 draining"
