"""The address of a server as people copy it: ``knothole://HOST:PORT?tcp=443#PIN``."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

SCHEME: Final = "knothole"
DEFAULT_PORT: Final = 3478  # RFC 8489 Section 9: the port of STUN over UDP and TCP
PIN_BYTES: Final = 32

_HOST_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")  # RFC 1123
_EXAMPLE: Final = "knothole://HOST:PORT#PIN"


class InvalidServerUrl(ValueError):
    """What was given is not the address of a server; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """Where a server is and which key it must show.

    ``host`` is an IP address in canonical text or a host name in lower case, ``port`` carries
    STUN and TURN (UDP and TCP) and TLS (TCP); ``tcp_ports`` are further ports for TLS. ``pin`` is
    the SHA-256 of the server certificate's SubjectPublicKeyInfo; None means that the certificate
    is verified the usual way, by name and authority.
    """

    host: str
    port: int = DEFAULT_PORT
    tcp_ports: tuple[int, ...] = ()
    pin: bytes | None = None

    def __str__(self) -> str:
        return format_server_url(self)

    @property
    def identity(self) -> str:
        """What tells this server from others for good: its pin, or else its name and port."""
        return format_pin(self.pin) if self.pin is not None else _authority(self.host, self.port)


def format_server_url(url: ServerUrl) -> str:
    """The address in its one canonical spelling."""
    query = "?tcp=" + ",".join(map(str, url.tcp_ports)) if url.tcp_ports else ""
    fragment = "#" + format_pin(url.pin) if url.pin is not None else ""
    return f"{SCHEME}://{_authority(url.host, url.port)}{query}{fragment}"


def format_pin(pin: bytes) -> str:
    """32 bytes as 52 characters of lower-case base32 (RFC 4648 Section 6) without padding."""
    if len(pin) != PIN_BYTES:
        raise ValueError(f"a pin has {PIN_BYTES} bytes")
    return base64.b32encode(pin).decode("ascii").rstrip("=").lower()


def parse_server_url(text: str) -> ServerUrl:
    """The address in ``text``. Raises :class:`InvalidServerUrl`.

    The port may be missing (3478), the pin may be base32 in either case or base64url. Spaces
    around it, which copying adds, do not count.
    """
    text = text.strip()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidServerUrl(f"a server address has no spaces and no other letters: {text!r}")
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() != SCHEME:
        raise InvalidServerUrl(f"a server address looks like {_EXAMPLE}, not like {text!r}")
    rest, has_pin, pin = rest.partition("#")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    if path:
        raise InvalidServerUrl(f"a server address has no path, but this one has /{path}")
    if "@" in authority:
        raise InvalidServerUrl("a server address has no user name in it")
    host, port = _parse_authority(authority)
    return ServerUrl(host, port, _parse_query(query), parse_pin(pin) if has_pin else None)


def parse_pin(text: str) -> bytes:
    """The 32 bytes of a pin in base32 (52 characters) or base64url (43 characters).

    Raises :class:`InvalidServerUrl`.
    """
    bare = text.rstrip("=")
    try:
        if len(bare) == 52:
            pin = base64.b32decode(bare.upper() + "====")
            canonical = base64.b32encode(pin).decode("ascii").rstrip("=") == bare.upper()
        elif len(bare) == 43:
            pin = base64.b64decode(bare + "=", altchars=b"-_", validate=True)
            canonical = base64.urlsafe_b64encode(pin).decode("ascii").rstrip("=") == bare
        else:
            raise InvalidServerUrl(
                f"the pin after '#' has {len(bare)} characters; it has 52 (or 43 in base64url): "
                "copy the whole line that the server printed"
            )
    except (binascii.Error, ValueError) as error:
        if isinstance(error, InvalidServerUrl):
            raise
        raise InvalidServerUrl("the pin after '#' has characters that no pin has") from error
    if not canonical:
        raise InvalidServerUrl("the last character of the pin is wrong: copy it again")
    return pin


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parse_authority(authority: str) -> tuple[str, int]:
    if authority.startswith("["):
        inside, bracket, after = authority[1:].partition("]")
        if not bracket or (after and not after.startswith(":")):
            raise InvalidServerUrl(f"an IPv6 address is written [ADDRESS]:PORT, not {authority!r}")
        return _parse_ipv6(inside), _parse_port(after[1:]) if after else DEFAULT_PORT
    if authority.count(":") > 1:
        raise InvalidServerUrl(f"an IPv6 address is written in brackets: [{authority}]:PORT")
    host, colon, port = authority.partition(":")
    return _parse_host(host), _parse_port(port) if colon else DEFAULT_PORT


def _parse_ipv6(text: str) -> str:
    try:
        address = IPv6Address(text)
    except ValueError as error:
        raise InvalidServerUrl(f"{text!r} is not an IPv6 address") from error
    if address.scope_id is not None:
        raise InvalidServerUrl(
            f"{text} is only good on one link; use an address that others can reach too"
        )
    return str(address)


def _parse_host(text: str) -> str:
    if not text:
        raise InvalidServerUrl(f"the host is missing: {_EXAMPLE}")
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ip_address(text))
        except ValueError as error:
            raise InvalidServerUrl(f"{text} is not an IPv4 address") from error
    labels = text.removesuffix(".").split(".")
    if len(text) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise InvalidServerUrl(f"{text!r} is neither a host name nor an IP address")
    return text.removesuffix(".").lower()


def _parse_port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 0xFFFF:
        raise InvalidServerUrl(f"{text!r} is not a port number (1-65535)")
    return int(text)


def _parse_query(query: str) -> tuple[int, ...]:
    ports: dict[int, None] = {}
    for option in filter(None, query.split("&")):
        name, _, value = option.partition("=")
        if name != "tcp":
            raise InvalidServerUrl(
                f"this version of knothole does not know the option {name!r} of a server address"
            )
        ports.update((_parse_port(port), None) for port in value.split(","))
    if len(ports) > 8:
        raise InvalidServerUrl("a server address names at most 8 further TCP ports")
    return tuple(ports)
