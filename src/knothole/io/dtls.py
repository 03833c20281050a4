"""DTLS 1.2 (RFC 6347) over datagrams that somebody else sends and receives.

OpenSSL does the protocol on memory buffers, by pyOpenSSL: the standard library has no DTLS.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from OpenSSL import SSL

DTLS_1_2: Final = 0xFEFD  # RFC 6347 Section 4.1: "{254, 253}"
# RFC 7525 Section 4.2, all with forward secrecy.
CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"
# Ours: UDP payload that fits every path with IPv6 (1280 bytes) and some tunnel in it.
HANDSHAKE_MTU: Final = 1200
RECORD_HEADER_SIZE: Final = 13  # RFC 6347 Section 4.1
HANDSHAKE_RECORD: Final = 22
APPLICATION_RECORD: Final = 23
# RFC 6347 Section 4.1: 2^14 bytes of payload at most; and what encryption adds to them.
MAX_PAYLOAD: Final = 1 << 14
MAX_DATAGRAM: Final = RECORD_HEADER_SIZE + MAX_PAYLOAD + 256


def dtls_context(method: int) -> SSL.Context:
    """A context for DTLS 1.2 and no other, without what an attacker might make use of."""
    context = SSL.Context(method)
    context.set_min_proto_version(DTLS_1_2)
    context.set_max_proto_version(DTLS_1_2)
    context.set_cipher_list(CIPHERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(
        SSL.OP_NO_QUERY_MTU | SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION
    )
    return context


class DtlsSession:
    """One association, from the first flight to the end; :attr:`is_open` in between.

    ``send`` gets each datagram to be sent, ``on_open`` is called once when both sides have proven
    their keys, ``on_closed`` once at the end however it comes, except by :meth:`close`.
    """

    def __init__(
        self,
        connection: SSL.Connection,
        *,
        send: Callable[[bytes], None],
        on_open: Callable[[], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self.is_open = False
        self.is_over = False
        self._connection = connection
        self._send, self._on_open, self._on_closed = send, on_open, on_closed
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Send or answer the first flight."""
        self._handshake()
        self._settle()

    def receive(self, datagram: bytes) -> list[bytes]:
        """What ``datagram`` from the other side carried; what is not from it is dropped."""
        if self.is_over or not RECORD_HEADER_SIZE <= len(datagram) <= MAX_DATAGRAM:
            return []
        self._connection.bio_write(datagram)
        if not self.is_open:
            self._handshake()
        payloads = self._read() if self.is_open else []
        self._settle()
        return payloads

    def send(self, payload: bytes) -> None:
        """Send ``payload`` as one datagram; dropped before the handshake, or when too long."""
        if not self.is_open or self.is_over or not 0 < len(payload) <= MAX_PAYLOAD:
            return
        try:
            self._connection.send(payload)
        except SSL.Error as error:
            self._fail(_words(error))
        self._settle()

    def close(self) -> None:
        """Say goodbye (close_notify) and end; idempotent."""
        if self.is_over:
            return
        if self.is_open:
            with contextlib.suppress(SSL.Error):
                self._connection.shutdown()
        self._end()
        self._flush()
        self._let_go()

    def abandon(self) -> None:
        """End without a word."""
        if not self.is_over:
            self._end()
            self._let_go()

    def _handshake(self) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return
        except SSL.Error as error:
            self._fail(_words(error))
            return
        self.is_open = True
        self._on_open()

    def _read(self) -> list[bytes]:
        """Everything that can be read now, one payload a record."""
        payloads = []
        while not self.is_over:
            try:
                payloads.append(self._connection.recv(MAX_PAYLOAD))
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                self._fail("the other side has closed the DTLS association")
            except SSL.Error as error:
                self._fail(_words(error))
        return payloads

    def _settle(self) -> None:
        """Send what there is to be sent, and mind the retransmissions of the handshake."""
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.is_over:
            self._let_go()
            return
        if self.is_open:
            return
        seconds = self._connection.DTLSv1_get_timeout()
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(max(seconds, 0.01), self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        try:
            self._connection.DTLSv1_handle_timeout()
        except SSL.Error as error:
            self._fail(_words(error))
        self._settle()

    def _flush(self) -> None:
        for datagram in take_datagrams(self._connection):
            self._send(datagram)

    def _fail(self, reason: str) -> None:
        if not self.is_over:
            self._end()
            self._on_closed(reason)

    def _end(self) -> None:
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _let_go(self) -> None:
        """Nothing is sent or told any more. Those who are told have this session, so that it would
        wait for the garbage collector otherwise, which does not see OpenSSL's 60 KiB."""
        self._send = self._on_open = self._on_closed = _nothing


def take_datagrams(connection: SSL.Connection) -> Iterator[bytes]:
    """What ``connection`` has to send, cut into datagrams as RFC 6347 Section 4.1.1 wants them."""
    records = bytearray()
    while True:
        try:
            records += connection.bio_read(1 << 16)
        except SSL.WantReadError:
            break
    start = end = 0
    while end < len(records):
        size = RECORD_HEADER_SIZE + int.from_bytes(records[end + 11 : end + 13], "big")
        alone = records[start] == APPLICATION_RECORD
        if end > start and (alone or end + size - start > HANDSHAKE_MTU):
            yield bytes(records[start:end])
            start = end
        end += size
    if end > start:
        yield bytes(records[start:end])


def _nothing(*_: object) -> None:
    pass


def _words(error: SSL.Error) -> str:
    """The last of OpenSSL's reasons, in its own words."""
    reasons = error.args[0] if error.args else ()
    if isinstance(reasons, list) and reasons:
        return str(reasons[-1][-1])
    return str(error) or "the DTLS association has failed"
