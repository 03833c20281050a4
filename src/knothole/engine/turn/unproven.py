"""What is sent to a source that anybody may have written (RFC 8489 Section 16.1.4).

A datagram's source address proves nothing, and an answer that is longer than its question makes a
server an amplifier. TURN cannot do without: the challenge of the long-term credential mechanism has
a realm and a nonce in it, a request may be 20 bytes. So what goes out beyond what came in is
counted, and once a network had its share, its questions get no answer for a while. Who was forged
is then left alone; who was not is answered after a retransmission, or by TCP.
"""

from __future__ import annotations

from knothole.engine.rate import Rate, TokenBuckets
from knothole.engine.turn.tally import Drop, Tally
from knothole.wire.address import network_of

# Whoever can forge one address of these can forge all, and the line to them is mostly one.
IPV4_BITS = 24
IPV6_BITS = 56


class UnprovenAnswers:
    """Answers to those who have not shown yet that they are where they seem to be.

    ``rate`` is in bytes beyond those that came in, for each source network. Answers that nobody
    gets are counted in ``tally``.
    """

    def __init__(self, rate: Rate, tally: Tally) -> None:
        self._networks: TokenBuckets[str] = TokenBuckets(rate)
        self._dropped = tally.dropped

    def __len__(self) -> int:
        """How many networks are remembered."""
        return len(self._networks)

    def allows(self, source: str, came: int, answer: int, now: float) -> bool:
        """Whether the host ``source``, from which ``came`` bytes came, gets ``answer`` bytes."""
        if answer <= came:
            return True
        network = network_of(source, IPV4_BITS, IPV6_BITS)
        if self._networks.take(network, answer - came, now):
            return True
        self._dropped[Drop.UNPROVEN] += 1
        return False
