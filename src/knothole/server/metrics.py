"""The server's figures for Prometheus. Labels have few values: no names, no addresses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from knothole.server.reports import Report
from knothole.server.snapshot import Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(snapshot: Snapshot) -> bytes:
    """The text format of Prometheus, version 0.0.4."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(snapshot))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield InfoMetricFamily("knothole", "The program.", {"version": snapshot.version})
        draining = "Whether no new allocations are made: 1 or 0."
        yield GaugeMetricFamily("knothole_draining", draining, float(snapshot.is_draining))
        up = GaugeMetricFamily(
            "knothole_process_up", "Processes that answer in time.", labels=["process"]
        )
        up.add_metric(["rendezvous"], 1)
        up.add_metric(["relay"], len(snapshot.relays))
        yield up
        yield from _vitals(snapshot)
        if snapshot.switchboard is not None:
            switchboard = snapshot.switchboard
            yield GaugeMetricFamily(
                "knothole_sessions", "Devices that are registered.", switchboard.sessions
            )
            yield GaugeMetricFamily(
                "knothole_calls", "Calls that ring or go on.", switchboard.calls
            )
            yield GaugeMetricFamily(
                "knothole_websockets", "WebSockets that are open.", switchboard.connections
            )
        yield from _relays(snapshot.relays)


def _vitals(snapshot: Snapshot) -> Iterator[Metric]:
    processes = [("rendezvous", snapshot.vitals), *(("relay", r.vitals) for r in snapshot.relays)]
    memory = GaugeMetricFamily(
        "knothole_memory_bytes", "Resident memory of the processes.", labels=["process"]
    )
    descriptors = GaugeMetricFamily(
        "knothole_open_descriptors", "Files and sockets that they have open.", labels=["process"]
    )
    tasks = GaugeMetricFamily(
        "knothole_tasks", "Tasks of their event loops that are not done.", labels=["process"]
    )
    lag = GaugeMetricFamily(
        "knothole_loop_lag_seconds",
        "How late the event loop was at worst in the last ten seconds.",
        labels=["process"],
    )
    uptime = GaugeMetricFamily(
        "knothole_uptime_seconds", "Since the oldest of them has begun.", labels=["process"]
    )
    for kind in ("rendezvous", "relay"):
        found = [vitals for process, vitals in processes if process == kind]
        if found:
            memory.add_metric([kind], sum(each.memory_bytes for each in found))
            descriptors.add_metric([kind], sum(each.descriptors for each in found))
            tasks.add_metric([kind], sum(each.tasks for each in found))
            lag.add_metric([kind], max(each.loop_lag_seconds for each in found))
            uptime.add_metric([kind], max(each.uptime_seconds for each in found))
    return iter((memory, descriptors, tasks, lag, uptime))


def _relays(relays: list[Report]) -> Iterator[Metric]:
    """The sums over all relay processes."""
    yield _sum(
        GaugeMetricFamily,
        "knothole_allocations",
        "Relayed addresses that there are, by the client's transport and their own family.",
        ("transport", "family"),
        [((a.transport, a.family), a.count) for relay in relays for a in relay.allocations],
    )
    yield _sum(
        CounterMetricFamily,
        "knothole_allocations_ended",
        "Relayed addresses that are no more, and why.",
        ("reason",),
        [((reason,), count) for relay in relays for reason, count in relay.ended.items()],
    )
    flows = [((f.path, f.direction), f) for relay in relays for f in relay.flows]
    yield _sum(
        CounterMetricFamily,
        "knothole_relayed_packets",
        "Datagrams relayed. One between two clients of this server counts in both directions.",
        ("path", "direction"),
        [(labels, flow.datagrams) for labels, flow in flows if flow.path != "tcp-peers"],
    )
    yield _sum(
        CounterMetricFamily,
        "knothole_relayed_bytes",
        "Payload relayed; to and from peers by TCP on a path of its own, tcp-peers.",
        ("path", "direction"),
        [(labels, flow.octets) for labels, flow in flows],
    )
    yield _sum(
        CounterMetricFamily,
        "knothole_dropped_packets",
        "What was not relayed or not answered, and why.",
        ("reason",),
        [((reason,), count) for relay in relays for reason, count in relay.dropped.items()],
    )
    yield _sum(
        CounterMetricFamily,
        "knothole_turn_requests",
        "TURN requests answered, by method and error code; 0: success. A first request gets 401.",
        ("method", "code"),
        [((a.method, str(a.code)), a.count) for relay in relays for a in relay.answers],
    )
    yield CounterMetricFamily(
        "knothole_stun_requests",
        "STUN Binding requests.",
        value=sum(relay.binding_requests for relay in relays),
    )
    yield _sum(
        GaugeMetricFamily,
        "knothole_relay_connections",
        "Clients of the relay by TCP, TLS and DTLS.",
        ("transport",),
        [((t,), count) for relay in relays for t, count in relay.connections.items()],
    )
    yield _sum(
        CounterMetricFamily,
        "knothole_relay_connections_opened",
        "Clients of the relay that have come by TCP, TLS and DTLS and said something.",
        ("transport",),
        [((t,), count) for relay in relays for t, count in relay.connected.items()],
    )
    yield GaugeMetricFamily(
        "knothole_accelerator_on",
        "Relay processes for which the kernel relays what it can.",
        sum(relay.accelerator.on for relay in relays),
    )
    yield GaugeMetricFamily(
        "knothole_accelerator_entries",
        "What the kernel relays by itself: one entry for each direction of a channel.",
        sum(relay.accelerator.entries for relay in relays),
    )


def _sum(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    documentation: str,
    labels: tuple[str, ...],
    samples: list[tuple[tuple[str, ...], int]],
) -> Metric:
    family = kind(name, documentation, labels=labels)
    sums: dict[tuple[str, ...], int] = {}
    for values, count in samples:
        sums[values] = sums.get(values, 0) + count
    for values, count in sorted(sums.items()):
        family.add_metric(values, count)
    return family
