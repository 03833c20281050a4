"""Between the endpoint and its rendezvous client: what is only passed on, in both directions."""

from __future__ import annotations

from knothole.engine.endpoint.events import (
    ConnectSignalling,
    DisconnectSignalling,
    EndpointOutput,
    Offline,
    PresenceSeen,
    Refused,
    SendSignalling,
)
from knothole.engine.rendezvous import events
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


def passed_on(event: events.ClientOutput) -> EndpointOutput | None:
    """What the driver is told of ``event`` as it is; None: it is for the endpoint itself."""
    match event:
        case events.Connect(connection):
            return ConnectSignalling(connection)
        case events.Disconnect(connection):
            return DisconnectSignalling(connection)
        case events.SendSignal(connection, data):
            return SendSignalling(connection, data)
        case events.RegistrationRefused(code, text, final):
            return Refused(code, text, final)
        case events.ConnectionLost():
            return Offline()
        case events.PresenceChanged(name, online):
            return PresenceSeen(name, online)
        case events.SignallingProblem():
            return event
        case _:
            return None
