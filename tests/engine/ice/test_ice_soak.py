"""Whatever happens in whatever order: nothing spins or breaks, and payload finds a way again."""

from __future__ import annotations

import random

import pytest

from knothole.engine.core import Datagram
from knothole.engine.ice import BETWEEN_KNOTHOLES, STANDARD, generate_credentials


def payload_arrives(world, ours, theirs):
    best = ours.best
    if best is None:
        return False
    arrived = []
    original = theirs.agent.receive

    def receive(datagram, now):
        if datagram.payload == b"payload":
            arrived.append(datagram)
        else:
            original(datagram, now)

    theirs.agent.receive = receive
    world.send(ours, Datagram(best.base, best.remote_address, b"payload"))
    world.run(world.now + 3 * world.one_way)
    theirs.agent.receive = original
    return any(
        theirs.agent.is_authenticated_remote(each.destination, each.source) for each in arrived
    )


class Story:
    """Alice and Bob, and what befalls them."""

    def __init__(self, lab, seed, options):
        self.chance = chance = random.Random(seed)
        self.world = lab.World(seed, one_way=chance.choice([0.001, 0.02, 0.15]))
        role = chance.choice([True, False])
        self.alice = self.world.node("alice", role, options)
        self.bob = self.world.node("bob", chance.choice([role, not role]), options)
        for number, node in enumerate((self.alice, self.bob), 1):
            inside = f"10.{number}.0.2:5000"
            kind = chance.choice(["none", "nat", "open", "varying"])
            if kind != "none":
                node.nat = lab.Nat(
                    f"203.0.113.{number}",
                    per_destination=kind == "varying",
                    open_=kind == "open",
                )
            node.inside = inside
            node.host(inside)
            if node.nat:
                node.reflexive(inside)
            node.relay(f"198.51.100.1:5000{number}")
        self.signal_delay = chance.uniform(0, 0.3)
        self.restarting = False

    def introduce(self):
        for ours, theirs in ((self.alice, self.bob), (self.bob, self.alice)):
            at = self.world.now + self.chance.uniform(0, 2)
            self.world.at(at, lambda ours=ours, theirs=theirs: ours.learn(theirs))

    def loss(self):
        self.world.loss = self.chance.choice([0, 0.02, 0.2])

    def outage(self):
        until = self.world.now + self.chance.uniform(0, 20)
        self.world.cut = lambda datagram: self.world.now < until

    def router_restart(self):
        """Noticed by its owner, who asks a STUN server anew and tells the peer."""
        ours, theirs = self.chance.choice([(self.alice, self.bob), (self.bob, self.alice)])
        if ours.nat is None:
            return
        ours.nat.restart()

        def notice():
            told = ours.reflexive(ours.inside)
            ours.do(lambda agent, now: agent.probe(now))
            self.world.at(
                self.world.now + self.signal_delay,
                lambda: theirs.do(lambda agent, now: agent.add_remote_candidate(told, now)),
            )

        self.world.at(self.world.now + self.chance.uniform(0, 3), notice)

    def probe(self):
        self.chance.choice([self.alice, self.bob]).do(lambda agent, now: agent.probe(now))

    def ice_restart(self):
        """One at a time: signalling keeps them in order."""
        if self.restarting:
            return
        self.restarting = True
        ours, theirs = self.chance.choice([(self.alice, self.bob), (self.bob, self.alice)])
        for node in (ours, theirs):
            node.credentials = generate_credentials(node.randbytes)
        ours.do(lambda agent, now: agent.restart(ours.credentials, now))

        def follow():
            theirs.do(lambda agent, now: agent.remote_restart(ours.credentials, now))
            theirs.do(lambda agent, now: agent.restart(theirs.credentials, now))
            theirs.learn(ours)
            self.world.at(self.world.now + self.signal_delay, conclude)

        def conclude():
            ours.learn(theirs)
            self.restarting = False

        self.world.at(self.world.now + self.signal_delay, follow)

    def befall(self, deeds, seconds):
        for _ in range(8):
            self.world.run(self.world.now + self.chance.uniform(0, seconds))
            self.chance.choice(deeds)()
        self.world.run(self.world.now + 5)
        self.world.cut = lambda datagram: False
        self.world.loss = 0.0


@pytest.mark.parametrize("seed", range(60))
def test_between_knotholes_payload_finds_a_way_again(lab, seed):
    story = Story(lab, seed, BETWEEN_KNOTHOLES)
    story.introduce()
    story.befall(
        [story.loss, story.outage, story.router_restart, story.probe, story.ice_restart], 12
    )
    story.world.run(story.world.now + 20)
    assert payload_arrives(story.world, story.alice, story.bob), f"seed {seed}"
    assert payload_arrives(story.world, story.bob, story.alice), f"seed {seed}"
    assert story.alice.agent.controlling is not story.bob.agent.controlling


@pytest.mark.parametrize("seed", range(40))
def test_by_the_standard_a_restart_mends_whatever_happened(lab, seed):
    story = Story(lab, seed, STANDARD)
    story.introduce()
    story.befall([story.loss, story.outage, story.probe, story.ice_restart], 12)
    story.ice_restart()
    story.world.run(story.world.now + 30)
    assert story.alice.agent.selected_pair and story.bob.agent.selected_pair, f"seed {seed}"
    assert payload_arrives(story.world, story.alice, story.bob), f"seed {seed}"
    assert payload_arrives(story.world, story.bob, story.alice), f"seed {seed}"
