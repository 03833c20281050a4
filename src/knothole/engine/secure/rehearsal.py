"""A handshake with oneself, so that the first real one is quick.

The first QUIC handshake of a process takes a tenth of a second longer than the next: libraries load
their tables and certificates then. Nothing is to be done at call time that could be done before.
"""

from __future__ import annotations

from knothole.engine.core import RandomBytes
from knothole.engine.secure.call_seal import CalleeSeal, CallerSeal
from knothole.engine.secure.identity import Identity
from knothole.engine.secure.quic import SecureChannel
from knothole.engine.secure.replay import SeenCalls

_NAME = "rehearsal"
_ID_BYTES = 16


def rehearse(random: RandomBytes) -> bool:
    """Call oneself in memory with identities of the moment; whether both ends were proven.

    Takes about 0.1 s of CPU the first time; best in a thread.
    """
    caller, callee = Identity.generate(random), Identity.generate(random)
    device_id = random(_ID_BYTES)
    seal = CallerSeal(
        identity=caller,
        name=_NAME,
        peer=callee.keys(_NAME),
        call_id=random(_ID_BYTES),
        random=random,
    )
    client = SecureChannel.client(caller, seal.words_nonce, 0.0)
    offer = CalleeSeal(
        seal.seal_offer(kind="line", quic_datagrams=client.first_flight),
        identity=callee,
        name=_NAME,
        device_id=device_id,
        call_id=seal.call_id,
        from_name=_NAME,
        from_key=caller.public_key,
        seen=SeenCalls(),
        random=random,
    )
    server = SecureChannel.server(
        callee,
        caller.public_key,
        offer.offer.quic_datagrams,
        offer.offer.words_commitment,
        offer.words_nonce,
        0.0,
    )
    sealed = offer.seal_answer(quic_datagrams=tuple(server.datagrams(0.0)))
    answer = seal.open_answer(device_id, sealed)
    client.expect_server(callee.public_key, answer.words_nonce, 0.0)
    for datagram in answer.quic_datagrams:
        client.receive(datagram, 0, 0.0)
    for datagram in client.datagrams(0.0):
        server.receive(datagram, 0, 0.0)
    return client.is_secured and server.is_secured
