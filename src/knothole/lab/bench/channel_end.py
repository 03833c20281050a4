"""One end of a transfer over a SecureChannel, as a process of its own.

It talks to whoever started it in JSON lines: first its offer or answer, at the end its figures.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import resource
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from knothole.engine.core import Datagram, Transmit
from knothole.engine.secure.bursts import join_segments
from knothole.engine.secure.events import ChannelEvent, Closed, Secured, StreamData
from knothole.engine.secure.identity import Identity
from knothole.engine.secure.quic import SecureChannel
from knothole.engine.secure.words import words_commitment
from knothole.io.driver import Driver
from knothole.io.loop import run_loop
from knothole.io.udp import open_udp
from knothole.wire.address import Address

CHUNK = bytes(64 * 1024)
AHEAD_BYTES = 1024 * 1024  # written and not yet on its way, as `drain` of a stream allows


@dataclass(frozen=True, slots=True)
class Figures:
    """What one end measured of itself."""

    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    megabytes: float
    sha256: str


class TransferEngine:
    """A channel between two addresses, and at the sending end the bytes that it carries."""

    def __init__(
        self,
        channel: SecureChannel,
        base: Address,
        remote: Address,
        to_send: int,
        digest: bool,
        now: float,
    ) -> None:
        self.channel = channel
        self.remaining = to_send
        self.received = 0
        self.finished = asyncio.Event()
        self._now = now
        self._base, self._remote = base, remote
        self._stream: int | None = None
        self._digest = hashlib.sha256() if digest else None

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest() if self._digest else ""

    def receive(self, datagram: Datagram, now: float) -> None:
        self._now = now
        self.channel.receive(datagram.payload, datagram.segment_size, now)

    def handle_timeout(self, now: float) -> None:
        self._now = now
        self.channel.handle_timeout(now)

    def next_timeout(self) -> float | None:
        return self.channel.next_timeout()

    def outputs(self) -> Iterator[Transmit | ChannelEvent]:
        """Datagrams are made as they are drained, so none is made that cannot leave."""
        for event in self.channel.outputs():
            self._take(event)
        while True:
            self._write_ahead()
            sent = False
            for payload, size in join_segments(self.channel.datagrams(self._now)):
                sent = True
                yield Transmit(Datagram(self._base, self._remote, payload, size))
            if not sent:
                return

    def _take(self, event: ChannelEvent) -> None:
        match event:
            case Secured() if self.remaining:
                self._stream = self.channel.open_stream()
            case StreamData(stream_id=stream_id, data=data, end=end):
                self.received += len(data)
                if self._digest:
                    self._digest.update(data)
                self.channel.consumed(stream_id, len(data))
                if end:
                    if stream_id != self._stream:
                        self.channel.write(stream_id, b"", end=True)
                    self.finished.set()
            case Closed():
                self.finished.set()

    def _write_ahead(self) -> None:
        stream = self._stream
        if stream is None or not self.remaining or self.channel.is_closed:
            return
        while self.remaining and self.channel.send_backlog(stream) < AHEAD_BYTES:
            chunk = CHUNK[: self.remaining]
            self.remaining -= len(chunk)
            if self._digest:
                self._digest.update(chunk)
            self.channel.write(stream, chunk, end=self.remaining == 0)


async def transfer(options: argparse.Namespace) -> None:
    """Exchange first flights through stdin and stdout, transfer, tell the figures."""
    loop = asyncio.get_running_loop()
    identity = Identity.generate(secrets.token_bytes)
    nonce = secrets.token_bytes(32)
    holder: list[Driver[ChannelEvent]] = []
    link = await open_udp(
        Address(options.host, 0),
        lambda datagrams: holder[0].receive(datagrams) if holder else None,
        offload=not options.no_offload,
    )
    mine = {"address": list(link.address), "key": _text(identity.public_key)}
    if options.role == "send":
        channel = SecureChannel.client(identity, nonce, time.monotonic())
        mine |= {"flight": [_text(data) for data in channel.first_flight]}
        _tell(mine | {"nonce": _text(words_commitment(nonce))})
        theirs = await loop.run_in_executor(None, _ask)
    else:
        theirs = await loop.run_in_executor(None, _ask)
        channel = SecureChannel.server(
            identity,
            _bytes(theirs["key"]),
            [_bytes(text) for text in theirs["flight"]],
            _bytes(theirs["nonce"]),
            nonce,
            time.monotonic(),
        )
        flight = [_text(data) for data in channel.datagrams(time.monotonic())]
        _tell(mine | {"flight": flight, "nonce": _text(nonce)})
    to_send = int(options.megabytes * 1_000_000) if options.role == "send" else 0
    remote = Address(*theirs["address"])
    engine = TransferEngine(
        channel, link.address, remote, to_send, options.digest, time.monotonic()
    )
    driver: Driver[ChannelEvent] = Driver(engine, lambda event: None)
    driver.attach(link, link.address)
    holder.append(driver)
    started, cpu = time.monotonic(), time.process_time()
    if options.role == "send":
        channel.expect_server(_bytes(theirs["key"]), _bytes(theirs["nonce"]), started)
        for text in theirs["flight"]:
            channel.receive(_bytes(text), 0, started)
    channel.path_changed(started)
    driver.wake()
    await engine.finished.wait()
    figures = Figures(
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - cpu,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        megabytes=(to_send or engine.received) / 1e6,
        sha256=engine.sha256,
    )
    _tell(asdict(figures))
    await asyncio.sleep(0.3)  # the last acknowledgements
    driver.close()
    link.close()


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _ask() -> dict[str, Any]:
    message = json.loads(sys.stdin.readline())
    assert isinstance(message, dict)
    return message


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("send", "receive"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--megabytes", type=float, default=512.0)
    parser.add_argument("--no-offload", action="store_true")
    parser.add_argument("--plain-asyncio", action="store_true")
    parser.add_argument("--digest", action="store_true")
    options = parser.parse_args(arguments)
    run = asyncio.run if options.plain_asyncio else run_loop
    run(transfer(options))


if __name__ == "__main__":
    main(sys.argv[1:])
