"""The figures as Prometheus reads them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from knothole.server.metrics import render
from knothole.server.reports import (
    AcceleratorReport,
    AllocationCount,
    AnswerCount,
    FlowReport,
    Report,
    UserReport,
)
from knothole.server.snapshot import ListenerReport, Snapshot, SwitchboardReport
from knothole.server.vitals import Vitals

RELAY = Report(
    vitals=Vitals(10.0, 2000, 0.25, 30, 4),
    is_draining=False,
    allocations=[AllocationCount("udp", "ipv4", 3), AllocationCount("tls", "ipv6", 1)],
    ended={"expired": 2},
    flows=[
        FlowReport("user-space", "to-peers", 7, 700),
        FlowReport("accelerator", "to-clients", 9, 900),
        FlowReport("tcp-peers", "to-peers", 0, 12_345),
    ],
    dropped={"no-permission": 4},
    answers=[AnswerCount("allocate", 401, 5), AnswerCount("allocate", 0, 4)],
    binding_requests=6,
    connections={"tls": 1},
    connected={"tls": 4, "dtls": 5},
    accelerator=AcceleratorReport(True, "", ["eth0"], 8),
    users=[UserReport("somebody", 3, 1.0, 2.0)],
)
SNAPSHOT = Snapshot(
    version="1.2.3",
    is_draining=True,
    vitals=Vitals(20.0, 1000, 0.001, 20, 3),
    switchboard=SwitchboardReport(5, 2, 6),
    listeners=[ListenerReport("udp 3478", "outside")],
    relay_processes=2,
    relays=[RELAY, RELAY],
)


def samples(snapshot: Snapshot) -> dict[str, float]:
    text = render(snapshot).decode()
    return {
        sample.name
        + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_relay_processes_are_summed_up() -> None:
    found = samples(SNAPSHOT)
    assert found["knothole_allocations family=ipv4 transport=udp"] == 6
    assert found["knothole_allocations_ended_total reason=expired"] == 4
    assert found["knothole_relayed_packets_total direction=to-peers path=user-space"] == 14
    assert found["knothole_relayed_bytes_total direction=to-clients path=accelerator"] == 1800
    assert found["knothole_dropped_packets_total reason=no-permission"] == 8
    assert found["knothole_turn_requests_total code=401 method=allocate"] == 10
    assert found["knothole_stun_requests_total"] == 12
    assert found["knothole_relayed_bytes_total direction=to-peers path=tcp-peers"] == 24_690
    assert "knothole_relayed_packets_total direction=to-peers path=tcp-peers" not in found
    assert found["knothole_relay_connections transport=tls"] == 2
    assert found["knothole_relay_connections_opened_total transport=tls"] == 8
    assert found["knothole_relay_connections_opened_total transport=dtls"] == 10
    assert found["knothole_memory_bytes process=relay"] == 4000
    assert found["knothole_memory_bytes process=rendezvous"] == 1000
    assert found["knothole_open_descriptors process=relay"] == 60
    assert found["knothole_open_descriptors process=rendezvous"] == 20
    assert found["knothole_tasks process=relay"] == 8
    assert found["knothole_loop_lag_seconds process=relay"] == 0.25
    assert found["knothole_process_up process=relay"] == 2
    assert found["knothole_accelerator_on"] == 2
    assert found["knothole_sessions"] == 5
    assert found["knothole_calls"] == 2
    assert found["knothole_draining"] == 1
    assert found["knothole_info version=1.2.3"] == 1


def test_no_name_and_no_address_is_a_label() -> None:
    text = render(SNAPSHOT).decode()
    assert "somebody" not in text
    assert "eth0" not in text


def test_a_relay_alone_or_one_that_is_silent_has_fewer_figures() -> None:
    silent = Snapshot("1", False, SNAPSHOT.vitals, None, [], 1, [])
    found = samples(silent)
    assert found["knothole_process_up process=relay"] == 0
    assert "knothole_sessions" not in found
    assert not silent.is_healthy
    healthy = Snapshot("1", False, SNAPSHOT.vitals, None, [], 1, [RELAY])
    assert healthy.is_healthy
