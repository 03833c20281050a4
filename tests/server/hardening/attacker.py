"""Somebody with a socket who says to a real server whatever a test wants, and hears its answers."""

from __future__ import annotations

import random
import socket
import struct
import time
from typing import Self

from knothole.engine.turn.authentication import PASSWORD_ALGORITHMS
from knothole.wire.address import Address
from knothole.wire.stun import (
    Algorithm,
    Attribute,
    Data,
    ErrorCode,
    Lifetime,
    Message,
    MessageClass,
    Method,
    Nonce,
    Realm,
    RequestedTransport,
    Userhash,
    Username,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
    encode,
    long_term_key,
    userhash,
)
from knothole.wire.turn import StreamFramer

PATIENCE = 40.0
AGAIN = 1.0  # seconds after which a request is sent again, as every client does


class Attacker:
    """Over UDP from a port of its own. Use as a context manager: it deletes what it got.

    ``source`` is the host that it sends from, where the server shall take it for somebody else
    than who was at this machine before.
    """

    transport = RequestedTransport()

    def __init__(
        self,
        port: int,
        username: str = "",
        password: str = "",
        realm: str = "knothole",
        *,
        host: str = "127.0.0.1",
        source: str = "",
        sha256: bool = True,
        seed: int = 1,
    ) -> None:
        self.username, self.password, self.realm = username, password, realm
        self.sha256 = sha256
        self.nonce = b""
        self.random = random.Random(seed)
        self._answered: set[bytes] = set()  # their requests may have been sent twice
        self.socket = self._open(host, port, source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.nonce:
            self.ask(Method.REFRESH, Lifetime(0))
        self.socket.close()

    def _open(self, host: str, port: int, source: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_DGRAM)
        if source:
            opened.bind((source, 0))
        opened.connect((host, port))
        return opened

    def exchange(self, request: bytes) -> bytes:
        """Send it, again and again, until there is an answer to it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.socket.send(request)
            for answer in self.heard(AGAIN, until=request[8:20]):
                if answer[8:20] == request[8:20]:
                    self._answered.add(request[8:20])
                    return answer
        raise AssertionError("the server does not answer")

    def heard(self, seconds: float, until: bytes = b"") -> list[bytes]:
        """What comes within that time, or up to the answer with that transaction id."""
        found: list[bytes] = []
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                came = self._receive()
            except TimeoutError:
                break
            found += [each for each in came if each[8:20] not in self._answered]
            if until and any(each[8:20] == until for each in found):
                break
        return found

    def _receive(self) -> list[bytes]:
        return [self.socket.recv(65_536)]

    def comes(self, seconds: float) -> list[bytes]:
        """What must come, however busy the machine is, and what else does within that time."""
        deadline = time.monotonic() + PATIENCE
        while not (found := self.heard(1.0)):
            assert time.monotonic() < deadline, "nothing comes"
        return [*found, *self.heard(seconds)]

    def unsigned(self, method: int, *attributes: Attribute) -> bytes:
        transaction_id = self.random.randbytes(12)
        return encode(Message(MessageClass.REQUEST, method, transaction_id, attributes))

    def signed(self, method: int, *attributes: Attribute, hashed: bool = False) -> bytes:
        """``hashed``: with USERHASH for the name."""
        name: Attribute = Username(self.username)
        if hashed:
            name = Userhash(userhash(self.username, self.realm))
        identity: tuple[Attribute, ...] = (name, Realm(self.realm), Nonce(self.nonce))
        algorithm = Algorithm.MD5
        if self.sha256:
            algorithm = Algorithm.SHA256
            identity += (PASSWORD_ALGORITHMS, PASSWORD_ALGORITHMS.algorithms[0])
        key = long_term_key(self.username, self.realm, self.password, algorithm)
        message = Message(
            MessageClass.REQUEST, method, self.random.randbytes(12), (*attributes, *identity)
        )
        return encode(message, **{"sha256_key" if self.sha256 else "key": key})

    def challenge(self) -> Message:
        """Take a nonce."""
        answer = decode(self.exchange(self.unsigned(Method.ALLOCATE, RequestedTransport())))
        nonce = answer.get(Nonce)
        assert nonce is not None
        self.nonce = nonce.value
        return answer

    def ask(self, method: int, *attributes: Attribute) -> Message:
        if not self.nonce:
            self.challenge()
        return decode(self.exchange(self.signed(method, *attributes)))

    def code(self, method: int, *attributes: Attribute) -> int:
        """The error code of the answer, 0 for success."""
        error = self.ask(method, *attributes).get(ErrorCode)
        return 0 if error is None else error.code

    def allocate(self, *attributes: Attribute) -> Address:
        answer = self.ask(Method.ALLOCATE, self.transport, *attributes)
        found = answer.get(XorRelayedAddress)
        assert found is not None, answer
        return found.address

    def indicate(self, peer: Address, data: bytes) -> None:
        """A Send indication."""
        content = (XorPeerAddress(peer), Data(data))
        self.socket.send(encode(Message(MessageClass.INDICATION, Method.SEND, bytes(12), content)))

    def send_channel(self, number: int, data: bytes) -> None:
        self.socket.send(struct.pack("!HH", number, len(data)) + data)


class StreamAttacker(Attacker):
    """Over TCP, for TCP allocations (RFC 6062); a connection may become one that carries data."""

    transport = RequestedTransport(6)

    def __exit__(self, *_: object) -> None:
        """With its connection its allocation ends."""
        self.socket.close()

    def _receive(self) -> list[bytes]:
        data = self.socket.recv(65_536)
        if not data:
            raise EOFError("the server has closed the connection")
        return list(self._framer.feed(data))

    def exchange(self, request: bytes) -> bytes:
        """Send it once: a stream loses nothing."""
        self.socket.sendall(request)
        for answer in self.heard(PATIENCE, until=request[8:20]):
            if answer[8:20] == request[8:20]:
                return answer
            self.indications.append(answer)
        raise AssertionError("the server does not answer")

    def _open(self, host: str, port: int, source: str) -> socket.socket:
        self._framer = StreamFramer()
        self.indications: list[bytes] = []
        return socket.create_connection((host, port), PATIENCE, (source, 0) if source else None)
