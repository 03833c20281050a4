"""TLS as both processes serve it."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ALPN_WEBSOCKET: Final = "http/1.1"  # RFC 6455 is HTTP/1.1
ALPN_TURN: Final = "stun.turn"  # RFC 7443 Section 3
ALPN_DISCOVERY: Final = "stun.nat-discovery"  # RFC 7443 Section 3: STUN without TURN


def server_context(chain: Path | str, key: Path | str, protocols: Sequence[str]) -> ssl.SSLContext:
    """A context with the certificate of two PEM files.

    Raises OSError (ssl.SSLError among it); a key that asks for a pass phrase is an error as well.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(chain, key, password=lambda: "")
    context.set_alpn_protocols(list(protocols))
    return context
