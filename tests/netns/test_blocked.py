"""UDP blocked, and all but TCP 443 blocked: the real programs connect by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.topology import Lab
from knothole.lab.programs import KnotholeCommands, knothole
from knothole.lab.trial import Setting, Trial, Verdict

NO_UDP = ["add rule inet egress forward iifname lan meta l4proto udp drop"]
TCP_443 = [
    "add rule inet egress forward iifname lan tcp dport 443 accept",
    "add rule inet egress forward iifname lan ct state established accept",
    "add rule inet egress forward iifname lan drop",
]
_CHAIN = "{ type filter hook forward priority -10 ; policy accept ; }"


class On443(KnotholeCommands):
    """A server that listens on 443 as well."""

    def serve(self, addresses: Sequence[str], data: Path) -> list[str]:
        hosts = [word for address in addresses for word in ("--host", address)]
        return knothole("serve", *hosts, "--also-listen", "443", "--data", str(data), "--json")


def blocked(
    monkeypatch: pytest.MonkeyPatch,
    alice: list[str],
    bob: list[str],
    nats: tuple[str, str] = ("linux", "linux"),
) -> Trial:
    """Two clients whose routers let out only what their rules let out, from the first packet on."""
    rules, add_client = {"alice": alice, "bob": bob}, Lab.add_client

    def add(lab: Lab, name: str, **options: Any) -> Any:
        host = add_client(lab, name, **options)
        lines = ["add table inet egress", f"add chain inet egress forward {_CHAIN}", *rules[name]]
        lab.router(name).namespace.nft("\n".join(lines) + "\n")
        return host

    monkeypatch.setattr(Lab, "add_client", add)
    line = LineSettings(one_way_seconds=0.010)
    return Trial(nats, On443(), Setting(line=line, settle_seconds=3.0))


@pytest.mark.netns
@pytest.mark.parametrize("both", [False, True], ids=["one end", "both ends"])
def test_all_but_tcp_443_blocked_is_relayed_over_tls_on_443(
    monkeypatch: pytest.MonkeyPatch, both: bool
) -> None:
    with blocked(monkeypatch, TCP_443, TCP_443 if both else []) as trial:
        for reverse in (False, True):
            run = trial.run(reverse=reverse)
            assert run.verdict is Verdict.RELAYED, run


@pytest.mark.netns
@pytest.mark.parametrize("both", [False, True], ids=["one end", "both ends"])
def test_blocked_udp_does_not_stop_a_call(monkeypatch: pytest.MonkeyPatch, both: bool) -> None:
    with blocked(monkeypatch, NO_UDP, NO_UDP if both else []) as trial:
        for reverse in (False, True):
            run = trial.run(reverse=reverse)
            assert run.verdict is not Verdict.FAILED, run
