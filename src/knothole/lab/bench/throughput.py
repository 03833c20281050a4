"""How fast one stream is between two processes, against plain UDP of the same shape.

The reference is a sender that knows nothing but to send and a receiver that counts, with the same
datagram size, measured in the same run: once in bursts (UDP_SEGMENT and UDP_GRO), once without.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from knothole.lab.bench.stage import RECEIVER, SENDER, Stage

REFERENCE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Result:
    """One transfer: bits received in the time the receiver saw, and what both ends spent.

    CPU is a share of one core, memory the peak in megabytes.
    """

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
    parser.add_argument("--nat", help="each end behind a kernel NAT of this kind, linux or none")
    parser.add_argument("--digest", action="store_true", help="hash at both ends, as pipe does not")
    parser.add_argument("--plain-asyncio", action="store_true", help="without uvloop")
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args(arguments)
    for offload in (True, False):
        with Stage(options.host, options.nat) as stage:
            plain = _median([plain_udp(stage, offload) for _ in range(options.runs)])
            channel = _median([_channel(stage, options, offload) for _ in range(options.runs)])
        _print(options, offload, plain, channel)
    return 0


def plain_udp(stage: Stage, offload: bool) -> Result:
    """The reference, from the sender to the receiver of ``stage``."""
    flags = ["--seconds", str(REFERENCE_SECONDS)] + ([] if offload else ["--no-offload"])
    sender = stage.start(SENDER, "plain_udp", "send", "--host", stage.host(SENDER), *flags)
    receiver = stage.start(RECEIVER, "plain_udp", "receive", "--host", stage.host(RECEIVER), *flags)
    ports = {name: each.take()["port"] for name, each in ((SENDER, sender), (RECEIVER, receiver))}
    receiver.give({"host": stage.seen_host(SENDER), "port": ports[SENDER]})
    receiver.take()  # the way to it is open
    sender.give({"host": stage.seen_host(RECEIVER), "port": ports[RECEIVER]})
    sent, got = sender.take(), receiver.take()
    return _result("plain UDP, same datagrams, received", sent, got)


def _channel(stage: Stage, options: argparse.Namespace, offload: bool) -> Result:
    flags = ["--megabytes", str(options.megabytes)] + ([] if offload else ["--no-offload"])
    flags += ["--plain-asyncio"] if options.plain_asyncio else []
    flags += ["--digest"] if options.digest else []
    sender = stage.start(SENDER, "channel_end", "send", "--host", stage.host(SENDER), *flags)
    receiver = stage.start(
        RECEIVER, "channel_end", "receive", "--host", stage.host(RECEIVER), *flags
    )
    offer = sender.take()
    receiver.give({**offer, "address": [stage.seen_host(SENDER), offer["address"][1]]})
    answer = receiver.take()
    sender.give({**answer, "address": [stage.seen_host(RECEIVER), answer["address"][1]]})
    got, sent = receiver.take(), sender.take()
    if got["sha256"] != sent["sha256"] or got["megabytes"] != sent["megabytes"]:
        raise RuntimeError(f"what was received is not what was sent: {sent}, {got}")
    return _result("one stream of a SecureChannel", sent, got)


def _median(results: list[Result]) -> Result:
    return sorted(results, key=lambda result: result.gigabits_per_second)[len(results) // 2]


def _result(name: str, sent: dict[str, Any], got: dict[str, Any]) -> Result:
    return Result(
        name,
        got["megabytes"] * 8 / 1000 / got["seconds"],
        sent["cpu_seconds"] / sent["seconds"],
        got["cpu_seconds"] / got["seconds"],
        sent["peak_memory_bytes"] / 1e6,
        got["peak_memory_bytes"] / 1e6,
    )


def _print(options: argparse.Namespace, offload: bool, plain: Result, channel: Result) -> None:
    ratio = channel.gigabits_per_second / plain.gigabits_per_second
    if options.json:
        facts = {
            "offload": offload,
            "gigabits_per_second": round(channel.gigabits_per_second, 3),
            "reference_gigabits_per_second": round(plain.gigabits_per_second, 3),
            "ratio": round(ratio, 3),
        }
        print(json.dumps(facts))
        return
    print(f"{'with' if offload else 'without'} segmentation offload")
    for result in (plain, channel):
        print(
            f"  {result.name:36} {result.gigabits_per_second:6.2f} Gbit/s"
            f"   CPU {result.sender_cpu:4.0%} / {result.receiver_cpu:4.0%}"
            f"   memory {result.sender_memory:4.0f} / {result.receiver_memory:4.0f} MB"
        )
    print(f"  ratio of the channel to plain UDP    {ratio:6.2f}")
