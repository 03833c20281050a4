"""``knothole pipe`` across two NATs of the kernel, against plain UDP in the same namespaces.

The reference is a sender that knows nothing but to send and a receiver that counts, with datagrams
of the same size, through the same NATs: once in bursts (UDP_SEGMENT and UDP_GRO), once without, as
iperf3 does. The pipe is timed at the receiver's end from its first bytes
to its last, and the whole command from its start to its exit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from knothole.lab.bench.stage import Stage
from knothole.lab.bench.throughput import plain_udp
from knothole.lab.netns.topology import Lab
from knothole.lab.programs import knothole

MEBIBYTE: Final = 1 << 20
READY_SECONDS: Final = 30.0
TRANSFER_SECONDS: Final = 600.0
LOOK_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class Transfer:
    """One run: seconds at the receiver and of the whole command, memory of the larger end."""

    gigabits: float
    stream_seconds: float
    command_seconds: float
    peak_megabytes: float
    digest_matches: bool

    @property
    def rate(self) -> float:
        """Gbit/s between the receiver's first and last bytes."""
        return self.gigabits / self.stream_seconds


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev bench pipe", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024, help="MiB through the pipe")
    parser.add_argument("--runs", type=int, default=3, help="the median of this many")
    parser.add_argument("--nat", default="linux", help="kind of both NATs")
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args(arguments)
    memory = Path("/dev/shm")  # noqa: S108 - in memory, so that no disk is measured
    place = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="knothole-pipe-", dir=place) as folder, Lab() as lab:
        lab.add_server()
        for name in ("alice", "bob"):
            lab.add_client(name, nat=options.nat)
        scene = _Scene(lab, Path(folder))
        scene.start(options.megabytes)
        matches = all(_compare(scene, options, offload) for offload in (True, False))
    return 0 if matches else 1


def _compare(scene: _Scene, options: argparse.Namespace, offload: bool) -> bool:
    plain = sorted(scene.plain(offload) for _ in range(options.runs))[options.runs // 2]
    runs = sorted((scene.pipe(offload) for _ in range(options.runs)), key=lambda run: run.rate)
    median = runs[len(runs) // 2]
    matches = all(run.digest_matches for run in runs)
    if options.json:
        facts = {
            "offload": offload,
            "gbit": median.rate,
            "reference_gbit": plain,
            "ratio": median.rate / plain,
            "command_seconds": median.command_seconds,
            "peak_megabytes": median.peak_megabytes,
            "digest_matches": matches,
        }
        print(json.dumps(facts), flush=True)
        return matches
    print(f"{'with' if offload else 'without'} segmentation offload")
    print(f"  plain UDP, same datagrams, received   {plain:6.2f} Gbit/s")
    print(
        f"  knothole pipe, {options.megabytes} MiB              {median.rate:6.2f} Gbit/s"
        f"   (command {median.command_seconds:.1f} s, memory {median.peak_megabytes:.0f} MB,"
        f" SHA-256 {'matches' if matches else 'DIFFERS'})"
    )
    print(f"  ratio                                 {median.rate / plain:6.2f}", flush=True)
    return matches


class _Scene:
    """A server and two joined clients in a lab."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._lab = lab
        self._folder = folder
        self._data = folder / "data"
        self._digest = b""

    def start(self, megabytes: int) -> None:
        digest = hashlib.sha256()
        with self._data.open("wb") as file:
            for _ in range(megabytes):
                block = os.urandom(MEBIBYTE)
                digest.update(block)
                file.write(block)
        self._digest = digest.digest()
        log = self._folder / "server.log"
        with log.open("wb") as output:
            self._lab.popen(
                "server",
                knothole("serve", "--data", str(self._folder / "server")),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        url = _wait_for_line(log, "ready ").split()[1]
        for name in ("alice", "bob"):
            self._lab.run(
                name,
                knothole("join", name, "--server", url),
                env=self._environment(name, True),
                check=True,
                stdout=subprocess.DEVNULL,
            )

    def pipe(self, offload: bool) -> Transfer:
        """One transfer from Alice's file to Bob's."""
        received, said = self._folder / "received", self._folder / "bob.log"
        with received.open("wb") as sink, said.open("wb") as errors:
            listener = self._lab.popen(
                "bob",
                knothole("listen", "--pipe", "--once"),
                env=self._environment("bob", offload),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=errors,
            )
        _wait_for_line(said, "ready")
        started = time.monotonic()
        with self._data.open("rb") as source:
            sender = self._lab.popen(
                "alice",
                knothole("pipe", "bob"),
                env=self._environment("alice", offload),
                stdin=source,
                stdout=subprocess.DEVNULL,
            )
        first, last, peak = started, started, 0.0
        size, wanted = 0, self._data.stat().st_size
        while size < wanted and time.monotonic() < started + TRANSFER_SECONDS:
            time.sleep(LOOK_SECONDS)
            new = received.stat().st_size
            if new != size:
                first = first if size else time.monotonic()
                size, last = new, time.monotonic()
            peak = max(peak, _memory(sender.pid), _memory(listener.pid))
            if sender.poll() is not None and listener.poll() is not None:
                break
        sender.wait(READY_SECONDS)
        command_seconds = time.monotonic() - started
        listener.wait(READY_SECONDS)
        with received.open("rb") as file:
            matches = hashlib.file_digest(file, "sha256").digest() == self._digest
        received.unlink()
        seconds = max(last - first, LOOK_SECONDS)
        return Transfer(size * 8 / 1e9, seconds, command_seconds, peak, matches)

    def plain(self, offload: bool) -> float:
        """Gbit/s of plain UDP from Alice to Bob, through both NATs."""
        with Stage(lab=self._lab) as stage:
            return plain_udp(stage, offload).gigabits_per_second

    def _environment(self, name: str, offload: bool) -> dict[str, str]:
        profile = {"KNOTHOLE_HOME": str(self._folder / name)}
        return {**os.environ, **profile, "KNOTHOLE_OFFLOAD": "on" if offload else "off"}


def _wait_for_line(path: Path, start: str) -> str:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith(start):
                return line
        time.sleep(LOOK_SECONDS)
    raise RuntimeError(f"no {start!r} in time: {path.read_text(errors='replace')[-500:]}")


def _memory(pid: int) -> float:
    """Peak resident memory of a process in MB; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    return 0.0
