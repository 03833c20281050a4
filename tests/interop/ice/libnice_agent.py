"""libnice as a program: run by Debian's own python3 (python3-gi, gir1.2-nice-0.1).

Lines of JSON. Out: {"candidates", "ufrag", "password"} when gathered, {"state"} when it changes,
{"selected": [local, remote]}, {"received"}. In: {"ufrag", "password", "candidates"}, {"send"}.
Arguments: controlling|controlled regular|aggressive [TURN-HOST PORT USER PASSWORD [udp|tcp]].
"""

import ctypes
import json
import sys

import gi

gi.require_version("Nice", "0.1")
from gi.repository import GLib, Nice  # noqa: E402

COMPONENT = 1
STATES = ("disconnected", "gathering", "connecting", "connected", "ready", "failed")


RECEIVE = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_void_p,
    ctypes.c_void_p,
)


def say(**message):
    print(json.dumps(message), flush=True)


def main(role, nomination, *relay):
    loop = GLib.MainLoop()
    flags = Nice.AgentOption.CONSENT_FRESHNESS
    if nomination == "regular":
        flags |= Nice.AgentOption.REGULAR_NOMINATION
    agent = Nice.Agent.new_full(loop.get_context(), Nice.Compatibility.RFC5245, flags)
    agent.set_property("controlling-mode", role == "controlling")
    agent.set_property("upnp", False)
    agent.set_property("ice-tcp", False)
    loopback = Nice.Address.new()
    loopback.set_from_string("127.0.0.1")
    agent.add_local_address(loopback)
    stream = agent.add_stream(1)
    if relay:
        host, port, user, password, transport = (*relay, "udp")[:5]
        kind = {"udp": Nice.RelayType.UDP, "tcp": Nice.RelayType.TCP}[transport]
        agent.set_relay_info(stream, COMPONENT, host, int(port), user, password, kind)
        agent.set_property("force-relay", True)

    def gathered(agent, stream):
        _, ufrag, password = agent.get_local_credentials(stream)
        candidates = agent.get_local_candidates(stream, COMPONENT)
        lines = [agent.generate_local_candidate_sdp(each) for each in candidates]
        say(ufrag=ufrag, password=password, candidates=lines)

    def changed(agent, stream, component, state):
        say(state=STATES[state])

    def selected(agent, stream, component, local, remote):
        say(selected=[agent.generate_local_candidate_sdp(each) for each in (local, remote)])

    @RECEIVE
    def received(agent, stream, component, length, data, _):
        say(received=ctypes.string_at(data, length).decode())

    def command(source, condition):
        line = sys.stdin.readline()
        if not line:
            loop.quit()
            return False
        message = json.loads(line)
        if "send" in message:
            data = message["send"]
            agent.send(stream, COMPONENT, len(data), data)
        else:
            agent.set_remote_credentials(stream, message["ufrag"], message["password"])
            lines = message["candidates"]
            parsed = [agent.parse_remote_candidate_sdp(stream, "a=" + each) for each in lines]
            agent.set_remote_candidates(stream, COMPONENT, parsed)
        return True

    agent.connect("candidate-gathering-done", gathered)
    agent.connect("component-state-changed", changed)
    agent.connect("new-selected-pair-full", selected)
    # Not in the introspected interface; PyGObject's hash() is the object's address.
    ctypes.CDLL("libnice.so.10").nice_agent_attach_recv(
        ctypes.c_void_p(hash(agent)), stream, COMPONENT, None, received, None
    )
    GLib.io_add_watch(sys.stdin, GLib.IO_IN | GLib.IO_HUP, command)
    agent.gather_candidates(stream)
    loop.run()


main(*sys.argv[1:])
