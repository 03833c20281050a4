"""More sockets with the address of another one, each for one peer alone (Linux)."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from knothole.io.udp_bind import bind_socket
from knothole.wire.address import Address, parse_address

CAN_CONNECT_BESIDE: Final = sys.platform == "linux"


def connect_beside(sockets: Sequence[socket.socket], peer: Address) -> socket.socket:
    """One more beside all that there are with an address, connected to ``peer``. Raises OSError.

    The kernel gives it what ``peer`` sends, and the first one what nobody else is connected to;
    what comes while it is being made may be found at either. No other program can join them, but
    one of the same user that tries in this very moment.
    """
    here = parse_address(*sockets[0].getsockname()[:2])
    made = None
    try:
        _share(sockets, True)
        made = bind_socket(here, shared=True)
        made.connect(tuple(peer))
        _share((made,), False)
    except BaseException:
        if made is not None:
            made.close()
        raise
    finally:
        _share(sockets, False)
    return made


def _share(sockets: Iterable[socket.socket], wanted: bool) -> None:
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, wanted)
