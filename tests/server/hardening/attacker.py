"""Somebody with a socket who says to a real server whatever a test wants, and hears its answers."""

from __future__ import annotations

import random
import socket
import time

from knothole.engine.turn.authentication import PASSWORD_ALGORITHMS
from knothole.wire.address import Address
from knothole.wire.stun import (
    Algorithm,
    Attribute,
    ErrorCode,
    Lifetime,
    Message,
    MessageClass,
    Method,
    Nonce,
    Realm,
    RequestedTransport,
    Username,
    XorRelayedAddress,
    decode,
    encode,
    long_term_key,
)

PATIENCE = 40.0
AGAIN = 1.0  # seconds after which a request is sent again, as every client does


class Attacker:
    """Over UDP from a port of its own. Use as a context manager: it deletes what it got."""

    def __init__(
        self,
        port: int,
        username: str = "",
        password: str = "",
        realm: str = "knothole",
        *,
        host: str = "127.0.0.1",
        sha256: bool = True,
        seed: int = 1,
    ) -> None:
        self.username, self.password, self.realm = username, password, realm
        self.sha256 = sha256
        self.nonce = b""
        self.random = random.Random(seed)
        self._answered: set[bytes] = set()  # their requests may have been sent twice
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.connect((host, port))

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.nonce:
            self.ask(Method.REFRESH, Lifetime(0))
        self.socket.close()

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
                came = self.socket.recv(65_536)
            except TimeoutError:
                break
            if came[8:20] in self._answered:
                continue
            found.append(came)
            if until and found[-1][8:20] == until:
                break
        return found

    def comes(self, seconds: float) -> list[bytes]:
        """What must come, however busy the machine is, and what else does within that time."""
        deadline = time.monotonic() + PATIENCE
        while not (found := self.heard(1.0)):
            assert time.monotonic() < deadline, "nothing comes"
        return [*found, *self.heard(seconds)]

    def unsigned(self, method: int, *attributes: Attribute) -> bytes:
        transaction_id = self.random.randbytes(12)
        return encode(Message(MessageClass.REQUEST, method, transaction_id, attributes))

    def signed(self, method: int, *attributes: Attribute) -> bytes:
        identity: tuple[Attribute, ...] = (
            *(Username(self.username), Realm(self.realm), Nonce(self.nonce)),
        )
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
        answer = self.ask(Method.ALLOCATE, RequestedTransport(), *attributes)
        found = answer.get(XorRelayedAddress)
        assert found is not None, answer
        return found.address
