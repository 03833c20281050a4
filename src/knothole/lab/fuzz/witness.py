"""What a server says of itself, by its own metrics and health: the witness of attacks."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from knothole.server.metrics_endpoint import SILENT

PATIENCE: Final = 40.0  # ours: a busy machine is no sick server
EVERY_SECONDS: Final = 1.0
# Ours: a relay that has not told its figures within a second is left out of them, for it is busy;
# only one that is silent for so long is ill, as its own operator sees it.
ILL_SECONDS: Final = 10.0
# Ours: how much more memory a server may have in the end than after the first round. Allocators and
# caches explain some megabytes; a kilobyte kept for each connection of some minutes is more.
MOST_GROWTH: Final = 32 * 1024 * 1024

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of /metrics at one moment, by name and labels; ``health`` is what /healthz says,
    "" when that is 200."""

    samples: dict[tuple[str, Labels], float]
    health: str = ""

    def sum(self, name: str, **labels: str) -> int:
        """Over all samples of that name which have these labels."""
        wanted = labels.items()
        return int(
            sum(
                value
                for (found, has), value in self.samples.items()
                if found == name and wanted <= dict(has).items()
            )
        )

    def by(self, name: str, label: str) -> dict[str, int]:
        """The samples of that name, by one of their labels; without those that are 0."""
        found: Counter[str] = Counter()
        for (each, has), value in self.samples.items():
            if each == name and value:
                found[dict(has)[label]] += int(value)
        return dict(found)

    @property
    def allocations(self) -> int:
        return self.sum("knothole_allocations")

    @property
    def entries(self) -> int:
        """Of the accelerator."""
        return self.sum("knothole_accelerator_entries")

    @property
    def relay_descriptors(self) -> int:
        """Files and sockets of the relay alone, counted between two things that it does: those by
        which these figures are asked for are the other process's."""
        return self.sum("knothole_open_descriptors", process="relay")

    @property
    def memory_bytes(self) -> int:
        return self.sum("knothole_memory_bytes")

    @property
    def held(self) -> dict[str, int]:
        """What must be as it was, once an attack is over."""
        return {
            "allocations": self.allocations,
            "accelerator entries": self.entries,
            "connections": self.sum("knothole_relay_connections"),
            "websockets": self.sum("knothole_websockets"),
            "devices": self.sum("knothole_sessions"),
            "descriptors": self.sum("knothole_open_descriptors"),
            "tasks": self.sum("knothole_tasks"),
        }

    def left_of(self, before: Figures) -> dict[str, tuple[int, int]]:
        """Of what is ``held``, what is more than ``before``: how much there is, and was."""
        was = before.held
        return {name: (now, was[name]) for name, now in self.held.items() if now > was[name]}

    def __str__(self) -> str:
        held = ", ".join(f"{count} {name}" for name, count in self.held.items())
        return f"{self.memory_bytes / 2**20:.1f} MiB, {held}"


def read_figures(port: int, host: str = "127.0.0.1") -> Figures:
    """Ask a server for both, until its relay is in them. Raises OSError, ValueError."""
    deadline = time.monotonic() + ILL_SECONDS
    while True:
        found = _read_figures(port, host)
        if found.sum("knothole_process_up", process="relay") and SILENT not in found.health:
            return found
        if time.monotonic() > deadline:
            raise ValueError(f"{SILENT}: {found.health or 'it is in no figures'}")
        time.sleep(0.1)


def _read_figures(port: int, host: str) -> Figures:
    code, health = _get(host, port, "/healthz")
    status, text = _get(host, port, "/metrics")
    if status != 200:
        raise ValueError(f"/metrics answers {status}")
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return Figures(samples, "" if code == 200 else f"{code} {health.strip()}")


def _get(host: str, port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except http.client.HTTPException as error:
        raise ValueError(f"{path}: {error!r}") from error
    finally:
        connection.close()


@dataclass(slots=True)
class Witness:
    """Asks every second while an attack goes on, and notes what must not be.

    ``own`` is how many allocations those who behave have.
    """

    port: int
    own: int = 0
    asked: int = 0
    troubles: list[str] = field(default_factory=list)
    worst_lag: float = 0.0
    most: Counter[str] = field(default_factory=Counter)
    """Of each thing that is held, the most that there was."""

    async def look(self) -> Figures:
        """Ask now, and judge. Raises OSError, ValueError."""
        said = await asyncio.to_thread(read_figures, self.port)
        self.asked += 1
        for name, count in said.held.items():
            self.most[name] = max(self.most[name], count)
        lags = [v for (name, _), v in said.samples.items() if name == "knothole_loop_lag_seconds"]
        self.worst_lag = max(self.worst_lag, *lags)
        if said.health:
            self._note(f"/healthz says {said.health}")
        if said.allocations < self.own:
            self._note(f"{said.allocations} allocations, of {self.own} of those who behave")
        errors = said.sum("knothole_turn_requests_total", code="500")
        if errors:
            self._note(f"{errors} requests were answered with 500 (Server Error)")
        return said

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.look()
            except (OSError, ValueError) as error:
                self._note(f"the metrics do not answer: {error!r}")
            await asyncio.sleep(EVERY_SECONDS)

    def _note(self, trouble: str) -> None:
        if trouble not in self.troubles:
            self.troubles.append(trouble)
