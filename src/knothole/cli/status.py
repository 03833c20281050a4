"""``knothole status``"""

from __future__ import annotations

from typing import Final

from knothole.cli.check import until
from knothole.cli.mappings import has_settled, mapping_facts, mapping_words
from knothole.cli.nat import describe, facts
from knothole.cli.output import Failure, Output
from knothole.cli.session import run
from knothole.engine.endpoint.endpoint import Endpoint
from knothole.engine.endpoint.gather import Gatherer
from knothole.engine.secure.identity import fingerprint
from knothole.peer.errors import KnotholeError
from knothole.peer.peer import Peer
from knothole.peer.profile import Profile
from knothole.wire.address import Address
from knothole.wire.candidate import CandidateKind

SERVER_SECONDS: Final = 6.0  # ours: a server that is being restarted is back by then
GATHER_SECONDS: Final = 3.0  # ours: where UDP is blocked, the relay is reached over TCP by then
DISCOVERY_SECONDS: Final = 6.0  # ours: a survey takes 3 s, and begins 1 s late without UDP

KINDS: Final = {
    CandidateKind.HOST: "host",
    CandidateKind.SERVER_REFLEXIVE: "server-reflexive",
    CandidateKind.PEER_REFLEXIVE: "peer-reflexive",
    CandidateKind.RELAYED: "relayed",
}


def status(*, json: bool = False) -> int:
    """Show who you are, on which server, what your NAT does.

    Takes some seconds: what a NAT lets through is learned by waiting for what does not come. The
    exit code is 1 when the server cannot be reached.

    Example: knothole status

    Parameters
    ----------
    json
        One JSON object per line.
    """
    return run(_status(Output(json=json)))


async def _status(output: Output) -> int:
    profile = Profile.load()
    key = fingerprint(profile.identity.public_key)
    _row(output, "Name", profile.name)
    _row(output, "Key", key)
    _row(output, "Profile", str(profile.folder.absolute()))
    _row(output, "Server", str(profile.server))
    output.result(
        "identity",
        "",
        name=profile.name,
        key=key,
        profile=str(profile.folder.absolute()),
        server=str(profile.server),
    )
    try:
        async with Peer(profile, callable=False, timeout=SERVER_SECONDS) as peer:
            _row(output, "Registered", "yes")
            output.result("server", "", online=True, why=None)
            await _network(output, peer.endpoint)
            await until(lambda: has_settled(peer.endpoint), GATHER_SECONDS)
            _row(output, "Mapped port", mapping_words(peer.endpoint))
            for mapping in mapping_facts(peer.endpoint):
                output.result("port-mapping", "", **mapping)
    except KnotholeError as error:
        _row(output, "Registered", "no")
        output.result("server", "", online=False, why=str(error))
        raise Failure(str(error)) from error
    return 0


async def _network(output: Output, endpoint: Endpoint) -> None:
    gatherer, discovery = endpoint.gatherer, endpoint.discovery
    await until(lambda: gatherer.udp_works, GATHER_SECONDS)
    _row(
        output,
        "UDP",
        "works" if gatherer.udp_works else "does not reach the server: lines go over its relay",
    )
    await until(lambda: discovery.complete, DISCOVERY_SECONDS)
    seen = discovery.behaviour
    await until(lambda: bool(_of_kind(gatherer, CandidateKind.RELAYED)), GATHER_SECONDS)
    report = discovery.report
    if seen is not None and report is not None:
        for heading, words in describe(seen, report):
            _row(output, heading, words)
    relayed = _of_kind(gatherer, CandidateKind.RELAYED)
    _row(output, "Relay", ", ".join(map(str, relayed)) or "none: the server gave no address")
    output.result(
        "nat",
        "",
        udp=gatherer.udp_works,
        relayed=[str(address) for address in relayed],
        **facts(seen),
    )
    for local in gatherer.candidates:
        candidate = local.candidate
        kind = KINDS[candidate.kind]
        output.result(
            "candidate",
            f"{'Candidate':<12}{candidate.address} ({kind})",
            kind=kind,
            address=str(candidate.address),
            base=str(local.base),
        )


def _of_kind(gatherer: Gatherer, kind: CandidateKind) -> list[Address]:
    return [c.candidate.address for c in gatherer.candidates if c.candidate.kind is kind]


def _row(output: Output, heading: str, words: str) -> None:
    if not output.json:
        output.result("", f"{heading:<12}{words}")
