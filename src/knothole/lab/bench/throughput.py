"""How fast one stream is between two processes, against plain UDP of the same shape.

The reference is a sender that knows nothing but to send and a receiver that counts, with the same
datagram size, measured in the same run: once in bursts (UDP_SEGMENT and UDP_GRO), once without.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

REFERENCE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Result:
    """One transfer: bits received in the time the receiver saw, and what both ends spent."""

    name: str
    gigabits_per_second: float
    sender_cpu: float
    receiver_cpu: float
    sender_memory: float
    receiver_memory: float


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev bench throughput", description=__doc__)
    parser.add_argument("--megabytes", type=float, default=512.0, help="what one stream carries")
    parser.add_argument("--runs", type=int, default=3, help="the median of this many")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address, 127.0.0.1 or ::1")
    parser.add_argument("--digest", action="store_true", help="hash at both ends, as pipe does not")
    parser.add_argument("--plain-asyncio", action="store_true", help="without uvloop")
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args(arguments)
    for offload in (True, False):
        _compare(options, offload)
    return 0


def _compare(options: argparse.Namespace, offload: bool) -> None:
    shape = "with" if offload else "without"
    plain = _median([_plain(options, offload) for _ in range(options.runs)])
    channel = _median([_channel(options, offload) for _ in range(options.runs)])
    ratio = channel.gigabits_per_second / plain.gigabits_per_second
    if options.json:
        print(
            json.dumps(
                {
                    "offload": offload,
                    "gbit": channel.gigabits_per_second,
                    "reference_gbit": plain.gigabits_per_second,
                    "ratio": ratio,
                }
            )
        )
        return
    print(f"{shape} segmentation offload")
    for result in (plain, channel):
        print(
            f"  {result.name:34} {result.gigabits_per_second:6.2f} Gbit/s"
            f"   CPU {result.sender_cpu:4.0%} / {result.receiver_cpu:4.0%}"
            f"   memory {result.sender_memory:4.0f} / {result.receiver_memory:4.0f} MB"
        )
    print(f"  ratio of the channel to plain UDP  {ratio:6.2f}")


def _median(results: list[Result]) -> Result:
    return sorted(results, key=lambda result: result.gigabits_per_second)[len(results) // 2]


def _channel(options: argparse.Namespace, offload: bool) -> Result:
    flags = ["--host", options.host, "--megabytes", str(options.megabytes)]
    flags += [] if offload else ["--no-offload"]
    flags += ["--plain-asyncio"] if options.plain_asyncio else []
    flags += ["--digest"] if options.digest else []
    sender, receiver = (_start("channel_end", role, *flags) for role in ("send", "receive"))
    with sender, receiver:
        _give(receiver, _take(sender))
        _give(sender, _take(receiver))
        got, sent = _take(receiver), _take(sender)
    if got["sha256"] != sent["sha256"] or got["megabytes"] != sent["megabytes"]:
        raise RuntimeError(f"what was received is not what was sent: {sent}, {got}")
    return _result("one stream of a SecureChannel", sent, got)


def _plain(options: argparse.Namespace, offload: bool) -> Result:
    flags = ["--host", options.host, "--seconds", str(REFERENCE_SECONDS)]
    flags += [] if offload else ["--no-offload"]
    receiver = _start("plain_udp", "receive", *flags)
    port = _take(receiver)["port"]
    sender = _start("plain_udp", "send", "--port", str(port), *flags)
    with sender, receiver:
        sent, got = _take(sender), _take(receiver)
    return _result("plain UDP, same datagrams, received", sent, got)


def _result(name: str, sent: dict[str, Any], got: dict[str, Any]) -> Result:
    return Result(
        name,
        got["megabytes"] * 8 / 1000 / got["seconds"],
        sent["cpu_seconds"] / sent["seconds"],
        got["cpu_seconds"] / got["seconds"],
        sent["peak_memory_bytes"] / 1e6,
        got["peak_memory_bytes"] / 1e6,
    )


def _start(module: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"knothole.lab.bench.{module}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _take(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process of the benchmark ended early: {process.args!r}")
    message = json.loads(line)
    assert isinstance(message, dict)
    return message


def _give(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()
