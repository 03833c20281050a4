"""SSDP search: how the description of a UPnP gateway is found (UPnP Device Architecture 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from knothole.wire.address import Address
from knothole.wire.malformed import MalformedMessage

MULTICAST: Final = Address("239.255.255.250", 1900)  # UDA 1.1 Section 1.3.2
GATEWAYS: Final = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
)
"""The search targets of internet gateways. A device of version 2 answers to version 1 as well."""

MAX_SIZE: Final = 2048  # ours: real answers have 300 to 500 bytes
_OK: Final = "HTTP/1.1 200"


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """A device: what it answers to, and the URL of its description, as it says."""

    target: str
    location: str


def encode_search(target: str, to: Address = MULTICAST) -> bytes:
    """An M-SEARCH for ``target``, to be answered within a second.

    ``to`` may be one device's address and the port of :data:`MULTICAST` (Section 1.3.2: unicast).
    """
    lines = (
        "M-SEARCH * HTTP/1.1",
        f"HOST: {to}",
        'MAN: "ssdp:discover"',
        "MX: 1",
        f"ST: {target}",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")


def decode_answer(data: bytes) -> SearchAnswer:
    """The answer to a search. Raises MalformedMessage for everything else."""
    if len(data) > MAX_SIZE:
        raise MalformedMessage("a search answer that is too long")
    try:
        status, *lines = data.decode("utf-8").split("\r\n")
    except UnicodeDecodeError:
        raise MalformedMessage("a search answer that is no text") from None
    if not status.startswith(_OK):
        raise MalformedMessage("not a search answer")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().upper(), value.strip())
    if not fields.get("ST") or not fields.get("LOCATION"):
        raise MalformedMessage("a search answer without ST or LOCATION")
    return SearchAnswer(fields["ST"], fields["LOCATION"])
