"""What `knothole server status` makes of two looks at a server."""

from __future__ import annotations

import io

import msgspec
from rich.console import Console

from knothole.cli.server_figures import figures, table
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

NAMES = ("\x1b[31mred", "bob")


def relay(packets: int) -> Report:
    return Report(
        vitals=Vitals(100.0, 55_000_000, 0.0),
        is_draining=False,
        allocations=[AllocationCount("udp", "ipv4", 2), AllocationCount("tls", "ipv4", 0)],
        ended={},
        flows=[FlowReport("user-space", "to-peers", packets, 100 * packets)],
        dropped={"no-channel": 3},
        answers=[AnswerCount("allocate", 0, 2), AnswerCount("allocate", 401, 9)],
        binding_requests=0,
        connections={},
        connected={},
        accelerator=AcceleratorReport(False, "no rights", [], 0),
        users=[UserReport(name, 1, 1000.0, 500.0) for name in NAMES],
    )


def snapshot(packets: int, relays: int = 1) -> Snapshot:
    return Snapshot(
        version="1.2.3",
        is_draining=False,
        vitals=Vitals(3700.0, 61_000_000, 0.001),
        switchboard=SwitchboardReport(4, 1, 5),
        listeners=[ListenerReport("udp 3478", "outside"), ListenerReport("udp 3479", "")],
        relay_processes=relays,
        relays=[relay(packets)] * relays,
    )


def test_what_passed_between_two_looks_is_a_rate() -> None:
    facts = figures(snapshot(600), snapshot(100), 2.0)
    assert facts["packets_per_second"] == 250.0
    assert facts["bits_per_second"] == 200_000
    [relayed] = facts["relayed"]
    assert (relayed["packets"], relayed["bytes"]) == (600, 60_000)
    assert facts["allocations"] == 2
    assert facts["allocations_by"] == [{"transport": "udp", "family": "ipv4", "count": 2}]
    assert facts["accelerator"] == {"on": False, "why": "no rights"}
    assert facts["users"][1] == {"name": "bob", "allocations": 1, "bits_per_second": 12_000}
    assert facts["healthy"] is True
    assert msgspec.json.encode(facts)


def test_processes_are_summed_up_and_one_that_was_silent_is_no_rate() -> None:
    facts = figures(snapshot(600, relays=2), snapshot(100, relays=2), 2.0)
    assert facts["packets_per_second"] == 500.0
    assert facts["users"][0]["allocations"] == 2
    silent = msgspec.structs.replace(snapshot(100), relays=[])
    assert figures(snapshot(600), silent, 1.0)["packets_per_second"] == 0.0
    assert figures(silent, snapshot(600), 1.0)["healthy"] is False


def test_with_the_longest_names_and_figures_it_fits_a_terminal_of_80_columns() -> None:
    out = io.StringIO()
    far = msgspec.structs.replace(
        relay(10**9), users=[UserReport("n" * 60, 100, 123_400_000.0, 123_400_000.0)]
    )
    now = msgspec.structs.replace(snapshot(10**9), relays=[far])
    Console(file=out, width=80, force_terminal=False).print(table(now, snapshot(100), 1.0))
    [line] = [line for line in out.getvalue().splitlines() if "nnn" in line]
    assert line.split()[1:] == ["100", "987.2", "M", "987.2", "M"]
    assert "allocations  bit/s to peers  bit/s to clients" in out.getvalue()


def test_the_table_says_it_in_words_and_obeys_nobodys_name() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=False)
    console.print(table(snapshot(600), snapshot(100), 2.0))
    text = out.getvalue()
    for words in (
        "ok, up 1 h 1 min, knothole 1.2.3",
        "4 devices, 1 calls",
        "udp 3478: reached from outside",
        "udp 3479: not reached yet",
        "off: no rights",
        "2 (udp ipv4 2)",
        "no-channel 3",
        "allocate 401 9",
        "to peers, user space",
        "bob",
        r"\x1b[31mred",
    ):
        assert words in text, text
    assert "\x1b" not in text
