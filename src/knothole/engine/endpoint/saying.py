"""From what calls want to say to the commands of the rendezvous client."""

from __future__ import annotations

from knothole.engine.rendezvous.client import RendezvousClient
from knothole.wire.signal import messages as signal


def say(client: RendezvousClient, message: signal.ClientMessage, now: float) -> None:
    """Have ``client`` say ``message``, now or as soon as it is connected again."""
    match message:
        case signal.Lookup(name):
            client.look_up(name, now)
        case signal.Call(call_id, to, sealed_to, offer, show_host=shown):
            client.call(call_id, to, sealed_to, offer, now, show_host=shown)
        case signal.Ringing(call_id):
            client.ringing(call_id, now)
        case signal.Answer(call_id, answer, shown):
            client.answer(call_id, answer, now, show_host=shown)
        case signal.Decline(call_id, reason):
            client.decline(call_id, reason, now)
        case signal.Cancel(call_id, reason):
            client.cancel(call_id, reason, now)
        case signal.HangUp(call_id, reason):
            client.hang_up(call_id, reason, now)
        case signal.Trickle(call_id, sealed):
            client.trickle(call_id, sealed, now)
        case signal.Early(call_id, datagrams):
            client.early(call_id, datagrams, now)
