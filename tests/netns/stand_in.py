"""Stand-ins for the real programs: a UDP switchboard that relays, and ends that punch.

Unencrypted and simple; they speak the words of knothole.lab.worker, so that the matrix can be
tried by itself. With LIAR set an end says that it is direct and relays everything.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time

SERVER_PORT = 3478
PUNCH = bytes.fromhex("000100002112a442") + bytes(12)  # a check, not payload
REPEAT = 0.02


def serve(address: str) -> None:
    """Registers names, tells two ends of each other, passes on what is marked R."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, SERVER_PORT))
    print(f"ready udp://{address}", flush=True)
    names: dict[str, tuple[str, int]] = {}
    while True:
        data, source = sock.recvfrom(4096)
        if data[:1] == b"R":
            to = next((where for where in names.values() if where != source), None)
            if to is not None:
                sock.sendto(data, to)
            continue
        words = json.loads(data)
        names[words["from"]] = source
        if words["do"] == "register":
            sock.sendto(b'{"do": "ok"}', source)
        elif words["to"] in names:
            for name, other in ((words["to"], words["from"]), (words["from"], words["to"])):
                told = {"do": "peer", "at": names[other]}
                sock.sendto(json.dumps(told).encode(), names[name])


class End:
    def __init__(self, name: str, server: str) -> None:
        self.name = name
        self.server = (server, SERVER_PORT)
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("0.0.0.0", 0))
        self.peer: tuple[str, int] | None = None
        self.is_direct = self.heard = False
        self.received = 0
        self.punch_at = self.punch_until = 0.0
        self.calling = ""
        self.registered = False

    def say(self, event: str, **facts: object) -> None:
        print(json.dumps({"event": event, "at": time.monotonic(), **facts}), flush=True)

    def to_server(self, **words: object) -> None:
        self.sock.sendto(json.dumps({"from": self.name, **words}).encode(), self.server)

    def send(self, data: bytes) -> None:
        if self.is_direct and self.peer and "LIAR" not in os.environ:
            self.sock.sendto(b"D" + data, self.peer)
        else:
            self.sock.sendto(b"R" + data, self.server)

    def run(self) -> None:
        while True:
            if not self.registered:
                self.to_server(do="register")
            elif self.calling and self.peer is None:
                self.to_server(do="call", to=self.calling)
            ready, _, _ = select.select([self.sock, 0], [], [], REPEAT)
            if 0 in ready and not self.obey(os.read(0, 4096)):
                return
            if self.sock in ready:
                self.take(*self.sock.recvfrom(4096))
            now = time.monotonic()
            if self.peer and self.punch_at <= now < self.punch_until:
                self.punch_at = now + REPEAT
                self.sock.sendto(PUNCH, self.peer)
                self.send(b"F")

    def obey(self, data: bytes) -> bool:
        for line in data.splitlines():
            words = json.loads(line)
            if words["do"] == "connect":
                self.say("connecting")
                self.calling = words["to"]
            elif words["do"] == "burst":
                for _ in range(words["count"]):
                    self.send(b"B" * words["size"])
                    time.sleep(0.001)
                self.say("sent")
        return bool(data)

    def take(self, data: bytes, source: tuple[str, int]) -> None:
        if data[:1] in (PUNCH[:1], b"D"):
            self.peer = source
            if not self.is_direct:
                self.is_direct = True
                self.say("path", kind="direct", text="")
        elif source == self.server and data[:1] == b"{":
            words = json.loads(data)
            if words["do"] == "ok" and not self.registered:
                self.registered = True
                self.say("ready")
            elif words["do"] == "peer" and self.peer is None:
                self.peer = tuple(words["at"])
                self.punch_until = time.monotonic() + 20.0
                if "LIAR" in os.environ:
                    self.say("path", kind="direct", text="")
            return
        if data[1:2] == b"F" and not self.heard:
            self.heard = True
            self.say("first")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        End(sys.argv[1], sys.argv[2]).run()
