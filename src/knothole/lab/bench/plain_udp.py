"""The reference: a process that sends datagrams as fast as it can, or one that counts them.

Both wait in system calls only and do nothing with the bytes, so this is what the machine gives to
any Python program that sends datagrams of this size in this way.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from knothole.engine.secure.bursts import LONGEST_BURST, MOST_SEGMENTS
from knothole.engine.secure.library import DATAGRAM_BYTES
from knothole.io.offload import make_offload
from knothole.io.udp_bind import bind_socket
from knothole.wire.address import Address

SEGMENTS = min(MOST_SEGMENTS, LONGEST_BURST // DATAGRAM_BYTES)
SILENCE_SECONDS = 0.5  # after which the sender is taken to have ended


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("send", "receive"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--no-offload", action="store_true")
    options = parser.parse_args(arguments)
    with bind_socket(Address(options.host, 0)) as sock:
        _say({"port": sock.getsockname()[1]})
        other = json.loads(sys.stdin.readline())
        destination = Address(other["host"], other["port"])
        if options.role == "send":
            send(sock, destination, options.seconds, options.no_offload)
        else:
            sock.sendto(b"", destination)  # opens the way in through a NAT
            _say({})
            receive(sock, options.no_offload)


def send(sock: socket.socket, destination: Address, seconds: float, no_offload: bool) -> None:
    """Send for so long, then say how much."""
    offload = make_offload(sock, enabled=not no_offload)
    burst = bytes(SEGMENTS * DATAGRAM_BYTES)
    single = bytes(DATAGRAM_BYTES)
    sent = 0
    started, cpu = time.monotonic(), time.process_time()
    while time.monotonic() - started < seconds:
        try:
            if offload.can_segment:
                offload.send_burst(sock, burst, DATAGRAM_BYTES, destination)
                sent += len(burst)
            else:
                for _ in range(SEGMENTS):
                    sent += sock.sendto(single, destination)
        except BlockingIOError:
            select.select([], [sock], [])
    _tell(sent, time.monotonic() - started, time.process_time() - cpu)


def receive(sock: socket.socket, no_offload: bool) -> None:
    """Count until there is silence, say how much came."""
    offload = make_offload(sock, enabled=not no_offload)
    received = 0
    select.select([sock], [], [])
    started, cpu = time.monotonic(), time.process_time()
    last = started
    while select.select([sock], [], [], SILENCE_SECONDS)[0]:
        try:
            while True:
                received += len(offload.receive(sock)[0])
        except BlockingIOError:
            last = time.monotonic()
    _tell(received, last - started, time.process_time() - cpu)


def _tell(size: int, seconds: float, cpu_seconds: float) -> None:
    figures = {
        "megabytes": size / 1e6,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    _say(figures)


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
