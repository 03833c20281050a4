"""``knothole audit``"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from knothole.cli.output import Failure, Output, WrongUsage
from knothole.io.audit.finding import Finding, Group
from knothole.io.audit.relay import relay_ways
from knothole.io.audit.rules import rules as rules_of
from knothole.io.audit.tcp import tcp_ways
from knothole.io.audit.udp import udp_ways
from knothole.io.diy import addresses_of, resolve
from knothole.peer.errors import KnotholeError
from knothole.peer.profile import Profile
from knothole.wire.address import Address
from knothole.wire.server_url import InvalidServerUrl, ServerUrl, parse_server_url

VERDICTS: Final = {True: "open", False: "closed", None: "?"}


def audit(
    *,
    server: str | None = None,
    assistant: str | None = None,
    close: str = "",
    allow: str = "",
    outside: str = "wan",
    rules: Path | None = None,
    json: bool = False,
) -> int:
    """Tell which ways lead out of this network and in, and how to close them.

    For administrators, from a computer inside. The server stands outside: it answers what it is
    asked and sends to nobody else. What could not be told is shown with a question mark and why.
    Takes about ten seconds.

    Example: knothole audit --close udp,relay --rules close.nft

    Parameters
    ----------
    server
        knothole:// address of the server to use; otherwise the profile's.
    assistant
        HOST:PORT of a `knothole diy assist` outside, for what the server cannot do (TCP).
    close
        Make nftables rules for the router that close these ways: udp, unasked, punching, relay,
        tcp-punching; separated by commas.
    allow
        Ports outside that stay open all the same, separated by commas.
    outside
        The router's interface that leads out.
    rules
        Write the rules to this file; otherwise they are printed.
    json
        One JSON object per line.
    """
    groups = _groups(close)
    ports = _ports(allow)
    if rules is not None and not groups:
        raise WrongUsage("Rules for what? Say for instance --close udp,punching.")
    if not outside or len(outside) > 15 or not all(c.isalnum() or c in "._-@" for c in outside):
        raise WrongUsage(f"{outside!r} is no name of an interface.")
    url = _server(server)
    helper = _assistant(assistant)
    output = Output(json=json)
    try:
        at = resolve(url.host, url.port)
        found = []
        for finding in _ways(at, url, helper):
            _show(output, finding)
            found.append(finding)
        servers = addresses_of(url.host)
    except OSError as error:
        raise Failure(f"{url.host} cannot be asked: {error.strerror or error}.") from error
    if groups:
        _give(output, rules_of(groups, outside=outside, servers=servers, allow=ports), rules)
    if not any(finding.open for finding in found):
        raise Failure(f"Nothing was heard of {url.host}: all is closed, or the server is down.")
    return 0


def _ways(server: Address, url: ServerUrl, assistant: Address | None) -> Iterator[Finding]:
    return chain(udp_ways(server), relay_ways(server, url.tcp_ports), tcp_ways(assistant))


def _show(output: Output, finding: Finding) -> None:
    output.result(
        "way",
        f"{VERDICTS[finding.open]:<8}{finding.name:<38}{finding.evidence}",
        group=finding.group.value,
        name=finding.name,
        open=finding.open,
        evidence=finding.evidence,
    )


def _give(output: Output, text: str, file: Path | None) -> None:
    if file is not None:
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise Failure(f"{file} cannot be written: {error.strerror}.") from error
        said = f"The rules are in {file}. Try them with: nft -c -f {file}"
        output.note("rules", said, file=str(file), text=text)
    elif output.json:
        output.result("rules", "", file=None, text=text)
    else:
        for line in ["", *text.splitlines()]:
            print(line)


def _server(text: str | None) -> ServerUrl:
    if text is None:
        try:
            return Profile.load().server
        except KnotholeError as error:
            raise Failure(f"{error} Or name a server: --server knothole://...") from error
    try:
        return parse_server_url(text)
    except InvalidServerUrl as error:
        raise WrongUsage(f"{str(error)[0].upper()}{str(error)[1:]}.") from error


def _assistant(text: str | None) -> Address | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65534:
        raise WrongUsage(f"--assistant is HOST:PORT, not {text!r}.")
    try:
        return resolve(host.strip("[]"), int(port))
    except OSError as error:
        raise Failure(f"{host!r} is not known here: {error.strerror or error}.") from error


def _groups(text: str) -> set[Group]:
    try:
        return {Group(word) for word in text.split(",") if word}
    except ValueError:
        words = ", ".join(group.value for group in Group if group is not Group.PROXY)
        raise WrongUsage(f"--close takes {words}, separated by commas; not {text!r}.") from None


def _ports(text: str) -> list[int]:
    words = [word for word in text.split(",") if word]
    if not all(word.isdecimal() and 1 <= int(word) <= 65535 for word in words):
        raise WrongUsage(f"--allow takes ports, separated by commas; not {text!r}.")
    return sorted({int(word) for word in words})
