"""What a relay tells of itself, as values that travel between the processes."""

from __future__ import annotations

import msgspec

from knothole.server.vitals import Vitals


class AllocationCount(msgspec.Struct, frozen=True):
    """Relayed addresses that there are now: by the client's transport, and by their family."""

    transport: str
    family: str
    count: int


class FlowReport(msgspec.Struct, frozen=True):
    """What was relayed so far by one path, in one direction; ``octets`` of payload.

    Paths are "user-space" and "accelerator", and "tcp-peers", which has no datagrams.
    """

    path: str
    direction: str
    datagrams: int
    octets: int


class AnswerCount(msgspec.Struct, frozen=True):
    """Requests that were answered so far; ``code`` 0: with success."""

    method: str
    code: int
    count: int


class AcceleratorReport(msgspec.Struct, frozen=True):
    """Whether the kernel relays what it can; the ``reason`` why it does not."""

    on: bool
    reason: str
    interfaces: list[str]
    entries: int


class UserReport(msgspec.Struct, frozen=True):
    """What one user has now; octets of payload a second."""

    name: str
    allocations: int
    to_peers: float
    to_clients: float


class Report(msgspec.Struct, tag="report", frozen=True):
    """How it goes. What has a name of its own in it is ``users`` only.

    By the transport ``connections`` are clients that are there, ``connected`` those that have come.
    """

    vitals: Vitals
    is_draining: bool
    allocations: list[AllocationCount]
    ended: dict[str, int]
    flows: list[FlowReport]
    dropped: dict[str, int]
    answers: list[AnswerCount]
    binding_requests: int
    connections: dict[str, int]
    connected: dict[str, int]
    accelerator: AcceleratorReport
    users: list[UserReport]
