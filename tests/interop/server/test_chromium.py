"""Headless Chromium behind a NAT of the lab, relayed by our server: a page calls itself.

The page is call.html. Chromium verifies the server's certificate by an authority in its user's NSS
database, as it would by a public one.
"""

from __future__ import annotations

import contextlib
import functools
import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from knothole.lab.netns.namespace import NamespacesUnavailable
from knothole.lab.netns.topology import Lab

from .conftest import PATIENCE, Relay, documented, running_relay

pytestmark = [pytest.mark.netns, pytest.mark.interop]

PAGE = Path(__file__).parent / "call.html"


class PageServer:
    """Serves the page and the calls it is to make, and hears what became of them."""

    def __init__(self, calls: list[dict[str, str]]) -> None:
        """Binds in the namespace that the calling thread is in."""
        self._results: queue.Queue[dict[str, Any]] = queue.Queue()
        results = self._results

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/calls":
                    self._answer("application/json", json.dumps(calls).encode())
                else:
                    self._answer("text/html; charset=utf-8", PAGE.read_bytes())

            def do_POST(self) -> None:
                results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer("text/plain", b"")

            def _answer(self, kind: str, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def result(self) -> dict[str, Any]:
        """What became of the next call."""
        return self._results.get(timeout=2 * PATIENCE)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def trust(home: Path, authority: Path) -> None:
    """Make an NSS database that has the authority: Chromium looks there besides its own list."""
    (home / ".pki" / "nssdb").mkdir(parents=True)
    for command in documented("certutil"):
        done = command.run({"HOME": str(home), "AUTHORITY": str(authority)})
        assert done.returncode == 0, done.stdout


@contextlib.contextmanager
def chromium(lab: Lab, home: Path, url: str) -> Iterator[None]:
    """Chromium with that page, ended afterwards."""
    [command] = documented("chromium")
    with (home / "log").open("wb") as log:
        process = lab.popen(
            "browser",
            command.argv,
            **command.options({"HOME": str(home), "PAGE": url}),
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the page says of its calls, by how it reached the server."""
    folder = tmp_path_factory.mktemp("chromium")
    try:
        lab = Lab()
    except NamespacesUnavailable as refused:
        pytest.skip(str(refused))
    with lab:
        server = lab.add_server("server").address
        lab.add_client("browser", nat="random")
        popen = functools.partial(lab.popen, "server")
        with running_relay(folder, [server], 3478, popen=popen) as relay:
            return calls_made(lab, relay, folder / "browser")


def calls_made(lab: Lab, relay: Relay, home: Path) -> dict[str, dict[str, Any]]:
    account = {"username": relay.username, "credential": relay.password}
    trust(home, relay.authority)
    with lab.inside("browser"):
        page = PageServer([{"urls": uri, **account} for uri in relay.uris.values()])
    try:
        with chromium(lab, home, page.url):
            return {way: page.result() for way in relay.uris}
    finally:
        page.close()


@pytest.mark.parametrize("way", ["udp", "tcp", "tls"])
def test_words_and_pictures_of_a_page_are_relayed(told, way) -> None:
    assert told[way].get("word") == "a word and back", told[way]
    assert told[way]["video"] is True
    for end in told[way]["ends"]:
        assert (end["local"], end["remote"], end["relayProtocol"]) == ("relay", "relay", way)
        assert end["sent"] > 0 and end["received"] > 0
