"""Random people, calls, lost connections and server restarts; what must hold in every run."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from knothole.engine.rendezvous.events import (
    CallAnswered,
    CallCancelled,
    CallDeclined,
    CallNotMade,
    IncomingCall,
    PeerHungUp,
)

ENDS = (CallCancelled, CallDeclined, CallNotMade, PeerHungUp)
NAMES = ("alice", "bob", "carol")


class Chaos:
    def __init__(self, world: Any, seed: int) -> None:
        self.world, self.random = world, random.Random(seed)
        self.devices = world.join(*NAMES, *NAMES)
        self.calls: set[tuple[Any, bytes]] = set()
        self.handled: Counter[Any] = Counter()
        self.answers: set[tuple[bytes, bytes]] = set()

    def step(self) -> None:
        device = self.random.choice(self.devices)
        action = self.random.choices(
            ["call", "react", "hang_up", "cancel", "trickle", "drop", "restart", "wait"],
            [20, 40, 10, 5, 10, 8, 2, 20],
        )[0]
        getattr(self, action)(device)
        self.world.run(self.random.choice([0.0, 0.005, 0.011, 0.05, 0.3]))

    def call(self, device: Any) -> None:
        other = self.random.choice(self.devices)
        call_id = self.random.randbytes(16)
        device.say("call", call_id, other.name, other.identity.sealing_key, b"offer")
        self.calls.add((device, call_id))

    def react(self, device: Any) -> None:
        for event in device.events[self.handled[device] :]:
            if isinstance(event, IncomingCall):
                call_id = event.call_id
                self.calls.add((device, call_id))
                match self.random.choice(["answer", "answer", "ring", "decline", "busy", "sleep"]):
                    case "answer":
                        device.say("ringing", call_id)
                        device.say("answer", call_id, b"answer of " + device.device_id)
                        self.answers.add((call_id, device.device_id))
                    case "ring":
                        device.say("ringing", call_id)
                    case "decline":
                        device.say("decline", call_id, "declined")
                    case "busy":
                        device.say("decline", call_id, "busy")
        self.handled[device] = len(device.events)

    def hang_up(self, device: Any) -> None:
        self.say_of_some_call(device, "hang_up", "hung-up")

    def cancel(self, device: Any) -> None:
        self.say_of_some_call(device, "cancel", "cancelled")

    def trickle(self, device: Any) -> None:
        self.say_of_some_call(device, "trickle", b"sealed")

    def say_of_some_call(self, device: Any, command: str, argument: Any) -> None:
        mine = sorted(call_id for who, call_id in self.calls if who is device)
        if mine:
            device.say(command, self.random.choice(mine), argument)

    def drop(self, device: Any) -> None:
        if device.line is not None:
            self.world.drop(device)

    def restart(self, device: Any) -> None:
        if self.world.server is not None:
            self.world.kill_server()
            self.world.after(self.random.uniform(0.01, 6), self.world.start_server)

    def wait(self, device: Any) -> None:
        self.world.run(self.random.uniform(0, 3))


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_every_call_comes_to_one_end(make_world: Any, seed: int) -> None:
    chaos = Chaos(make_world(), seed)
    world = chaos.world
    for _ in range(120):
        chaos.step()
    world.run(12)  # the server and everybody is back
    assert all(device.engine.is_registered for device in chaos.devices)
    for device, call_id in sorted(chaos.calls, key=lambda call: (call[0].number, call[1])):
        device.say("hang_up", call_id, "hung-up")
    world.run(130)
    assert world.server.call_count == 0
    for device in chaos.devices:
        rung = Counter(event.call_id for event in device.of(IncomingCall))
        answered = Counter(event.call_id for event in device.of(CallAnswered))
        ended = Counter(event.call_id for event in device.events if isinstance(event, ENDS))
        assert max((rung | answered | ended).values(), default=0) <= 1
        for event in device.of(CallAnswered):
            assert (event.call_id, event.device_id) in chaos.answers
            assert event.answer == b"answer of " + event.device_id
        over: set[bytes] = set()
        for event in device.events:
            assert getattr(event, "call_id", None) not in over or type(event).__name__ == (
                "SignallingProblem"
            )
            if isinstance(event, ENDS):
                over.add(event.call_id)


def test_the_same_seed_gives_the_same_run(make_world: Any) -> None:
    def run() -> list[Any]:
        chaos = Chaos(make_world(), 5)
        for _ in range(60):
            chaos.step()
        return [device.log for device in chaos.devices]

    assert run() == run()
