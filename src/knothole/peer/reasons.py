"""From what the engine and the sockets tell to the errors that a user of the library gets."""

from __future__ import annotations

import ssl
from typing import Final

from knothole.engine.endpoint.events import CallFault
from knothole.io.proxy import InvalidProxy, Proxy, proxy_for
from knothole.io.tls import PinMismatch
from knothole.peer.errors import (
    CallDeclined,
    KnotholeError,
    NoAnswer,
    PeerBusy,
    PeerKeyChanged,
    PeerOffline,
    ProfileError,
    ServerKeyChanged,
    ServerUnreachable,
    UnknownName,
)
from knothole.wire.server_url import ServerUrl

_ERRORS: Final[dict[CallFault, type[KnotholeError]]] = {
    CallFault.UNKNOWN: UnknownName,
    CallFault.OFFLINE: PeerOffline,
    CallFault.DECLINED: CallDeclined,
    CallFault.BUSY: PeerBusy,
    CallFault.NO_ANSWER: NoAnswer,
    CallFault.KEY_CHANGED: PeerKeyChanged,
    CallFault.KEY_CHANGED_THERE: PeerKeyChanged,
    CallFault.CANCELLED: CallDeclined,
}


def call_error(fault: CallFault | None, text: str) -> KnotholeError:
    """The error for a call of ours from which no line came."""
    return NoAnswer(text) if fault is None else _ERRORS.get(fault, NoAnswer)(text)


def server_unreachable(server: ServerUrl, why: Exception | None) -> ServerUnreachable:
    """``why`` is what the last try has said."""
    said = f" ({why})" if why else ""
    return ServerUnreachable(
        f"The server {server.host}, port {server.port}, cannot be reached{said}. "
        "Is it running, and may TCP go out to that port?"
    )


def usable_proxy(server: ServerUrl, configured: str | None) -> Proxy | None:
    """The proxy on the way to ``server``, if there is one. Raises ProfileError."""
    try:
        return proxy_for(server.host, configured)
    except InvalidProxy as error:
        raise ProfileError(f"The proxy cannot be used: {error}.") from None


def lasting_error(server: ServerUrl, error: Exception) -> KnotholeError | None:
    """What trying again will not change; None where it may."""
    if isinstance(error, PinMismatch):
        return server_key_changed(server)
    if isinstance(error, ssl.SSLCertVerificationError):
        return server_not_verified(server, error.verify_message)
    return None


def server_not_verified(server: ServerUrl, why: str) -> ServerUnreachable:
    """The server shows a certificate that the authorities we know do not vouch for."""
    return ServerUnreachable(
        f"The certificate of the server {server.host} cannot be verified ({why}). If its operator "
        "gave you an address with a PIN, which follows a #, join with the whole address."
    )


def server_key_changed(server: ServerUrl) -> ServerKeyChanged:
    """The server that answers is not the one whose key is pinned."""
    return ServerKeyChanged(
        f"The server at {server.host} has another key than the pinned one: it is not the server "
        "you joined, or somebody is in between. If its operator confirms a new key: "
        "knothole join NAME --server 'knothole://...'"
    )
